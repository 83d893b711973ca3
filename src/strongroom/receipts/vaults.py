"""The part of a receipt about datasets whose keys are in vaults: verified from the application's bindings on.

A binding pins the digest of the vault key's statement; that names the owners who sign approvals and versions. There is
no log and no service's word: which TEEs had the key released besides the driver, nobody wrote down.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from strongroom.attestation.result import AttestationResult
from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import Mismatch, RefusedError, VerificationError
from strongroom.crypto.jose import unverified_header
from strongroom.crypto.keys import VerifyingKey
from strongroom.datasets.vault_versions import verify_version
from strongroom.policy.approval import Approval, appraise_result
from strongroom.policy.key_back_ends import KeyBackEnd
from strongroom.policy.vault_approval import verify_vault_approval
from strongroom.wire.key_service import DatasetVersion
from strongroom.wire.receipt import ReceiptBody, VaultRecord
from strongroom.wire.ticket import RunTicket
from strongroom.wire.trust import Trust
from strongroom.wire.vault_key import VaultKey, parse_vault_key

_ACTION: Final = "do not rely on this run; ask the owner which vault and which approval were meant"
Access: TypeAlias = Literal["read", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedVault:
    """What a receipt proves about one vault's key.

    Attributes:
        approvals: What the owner had approved, by dataset.
        inputs, outputs: Version statements by dataset.
    """

    key: VaultKey
    approvals: Mapping[str, Approval]
    inputs: Mapping[str, DatasetVersion]
    outputs: Mapping[str, DatasetVersion]

    @property
    def back_end(self) -> KeyBackEnd:
        """What keeps the key."""
        return KeyBackEnd(self.key.kind)


def verify_vaults(
    body: ReceiptBody, ticket: RunTicket, *, drivers: Mapping[str, AttestationResult], trust: Trust
) -> dict[str, VerifiedVault]:
    """Verify what a receipt says of vaults' keys.

    1. Each statement is the one that the application's bindings pin.
    2. Each approval is signed by an owner of that statement whom the auditor trusts, covers the ticket, and is met by
       the driver's attestation result; it states nothing that nobody enforces there.
    3. Inputs and outputs are versions that an owner signed, or a run with the vault's key.

    Args:
        body: The receipt's body, whose signature is verified.
        ticket: The run's ticket, verified.
        drivers: For each vault's key: the driver's verified attestation result.
        trust: The auditor's anchors.

    Raises:
        FormatError: A statement or approval is none.
        VerificationError: A digest or signature does not hold.
        RefusedError: It holds, but for something else than was approved or is trusted.
    """
    return {
        identity: _verify_vault(body, record, ticket, identity=identity, driver=drivers[identity], trust=trust)
        for identity, record in body.vaults.items()
    }


def _verify_vault(
    body: ReceiptBody,
    record: VaultRecord,
    ticket: RunTicket,
    *,
    identity: str,
    driver: AttestationResult,
    trust: Trust,
) -> VerifiedVault:
    key = parse_vault_key(record.statement)
    _demand("vault key's statement", identity, key.identity)
    bindings = dict(_bindings(body, identity))
    _demand("datasets of the vault's key", sorted(bindings), sorted(record.approvals))
    _demand("driver's place", (0, "driver"), (record.member.number, record.member.role))
    approvals = {
        name: _approval(token, name, bindings[name], key=key, ticket=ticket, driver=driver, trust=trust)
        for name, token in record.approvals.items()
    }
    inputs = dict(_inputs(body, record, bindings, key=key, ticket=ticket))
    outputs: dict[str, DatasetVersion] = {}
    for name, token in record.outputs.items():
        if bindings.get(name) != "write":
            raise VerificationError("the receipt names an output that the application does not write", action=_ACTION)
        version = verify_version(token, key=key, run_key=_run_key(record, name), dataset=name)
        _demand("writer of an output", f"run:{body.run}", version.writer)
        outputs[name] = version
    return VerifiedVault(key=key, approvals=approvals, inputs=inputs, outputs=outputs)


def _bindings(body: ReceiptBody, identity: str) -> Iterator[tuple[str, Access]]:
    """Yield the datasets that the application binds to a key, and what for."""
    datasets = parse_json_object(body.application).get("datasets")
    for name, binding in datasets.items() if isinstance(datasets, dict) else ():
        match binding:
            case {"key_service": str(keeper), "access": "read" | "write" as access}:
                if keeper == identity:
                    yield name, access
            case _:
                raise VerificationError(f"the application does not bind dataset {name}", action=_ACTION)


def _approval(
    token: str,
    name: str,
    access: Access,
    *,
    key: VaultKey,
    ticket: RunTicket,
    driver: AttestationResult,
    trust: Trust,
) -> Approval:
    approval = verify_vault_approval(token, key=key, dataset=name, access=access, ticket=ticket)
    signer = VerifyingKey.from_jwk(unverified_header(token)["jwk"]).thumbprint
    mismatches = list(appraise_result(approval, driver.claims, role="driver"))
    if signer not in trust.owners:
        mismatches.append(Mismatch(name="owner", expected=" or ".join(trust.owners), actual=signer))
    if mismatches:
        raise RefusedError(
            f"the approval for dataset {name} is not met, or signed by nobody this trust file knows",
            action=_ACTION,
            mismatches=tuple(mismatches),
        )
    return approval


def _inputs(
    body: ReceiptBody, record: VaultRecord, bindings: Mapping[str, Access], *, key: VaultKey, ticket: RunTicket
) -> Iterator[tuple[str, DatasetVersion]]:
    for name, token in body.inputs.items():
        if name in bindings:
            run_key, number = _run_key(record, name), ticket.datasets.get(name)
            yield name, verify_version(token, key=key, run_key=run_key, dataset=name, number=number)


def _run_key(record: VaultRecord, name: str) -> VerifyingKey | None:
    jwk = record.version_keys.get(name)
    return None if jwk is None else VerifyingKey.from_jwk(jwk)


def _demand(name: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise VerificationError(
            f"the receipt does not hold: {name}",
            action=_ACTION,
            mismatches=(Mismatch(name=name, expected=str(expected)[:200], actual=str(actual)[:200]),),
        )
