"""A vault's key in the place of a key service: released into this TEE, which then does a key service's part itself.

What a key service would decide, this agent decides by the owner's signed approval; what nobody can decide here (counts,
the newest version, which other TEEs there are) is what the approval accepted by naming the back end
(`policy.key_back_ends`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from strongroom.application.description import ApplicationDescription, DatasetBinding
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, ConflictError, Mismatch, RefusedError
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.clients.azure_key_vault import AzureKeyVaultClient, VaultRelease
from strongroom.clients.key_service import ReleasedWriteKeys
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.random import random_bytes
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import (
    newest_version,
    next_version,
    publish_version,
    read_version,
    sign_version,
    verify_version,
)
from strongroom.keys.release import VerifiedTicket
from strongroom.policy.approval import Approval, appraise_result
from strongroom.policy.vault_approval import verify_vault_approval, with_hardware
from strongroom.wire.key_service import Commit, DatasetVersion, Evidence, NewWrite, RunMember, WrittenDataset
from strongroom.wire.receipt import VaultRecord
from strongroom.wire.runtime_data import Role
from strongroom.wire.vault_key import VaultAddress, VaultKey, parse_vault_key

_NONCE_BYTES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultAdmission:
    """What this TEE has once a vault let it in; the same a key service's answer holds.

    Attributes:
        release: The released key.
        approvals: What the owner approved, by dataset.
        share: This key's share of the run's secret.
        writes: The run's own writes, by dataset.
        versions: The statements of the versions that are read or built upon, by dataset.
    """

    release: VaultRelease
    approvals: Mapping[str, Approval]
    share: SecretBytes
    writes: Mapping[str, NewWrite]
    versions: Mapping[str, str]

    @property
    def simulated(self) -> bool:
        """Whether the approvals are of simulated hardware."""
        return any(approval.hardware == "simulated" for approval in self.approvals.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultMember:
    """This TEE's part in a run, as far as one vault's key goes.

    Args:
        key: The statement that the bindings pin.
        address: How the host says to reach the vault, and the owner's approvals.
        client: The conversation with the vault.
        ticket: The run's ticket, its signature verified.
        bindings: The datasets under this key.
        storage: Where the storage of each dataset lies.
    """

    key: VaultKey
    address: VaultAddress
    client: AzureKeyVaultClient
    ticket: VerifiedTicket
    bindings: Mapping[str, DatasetBinding]
    storage: Mapping[str, str]
    _nonce: str = field(default_factory=lambda: to_b64url(random_bytes(_NONCE_BYTES)))

    @property
    def identity(self) -> str:
        """What the bindings pin."""
        return self.key.identity

    def nonce(self) -> str:
        """Return what stands for a key service's nonce in the evidence: a vault gives none, so it says nothing."""
        return self._nonce

    def join(self, result: str, *, role: Role, driver_key: str) -> VaultAdmission:
        """Have the vault release its key into this TEE, and take this TEE's part in the run.

        1. Verify the owner's approvals, and compare the attestation result with them: the vault does by the key's
           release policy, and does not say what differed.
        2. Have the key released, and see that it is the pinned one.
        3. Read which versions are read or built upon.
        4. Derive share and writes.

        Args:
            result: This TEE's attestation result.
            role: Whose TEE this is.
            driver_key: Thumbprint of the driver's signing key.

        Raises:
            RefusedError: An approval is missing, does not cover the run, or states what a vault cannot enforce; or the
                vault says no.
            StrongroomError: Anything else that `AzureKeyVaultClient.release` and storage refuse.
        """
        approvals = {name: self._approval(name, binding) for name, binding in self.bindings.items()}  # 1
        for name, approval in approvals.items():
            _demand_appraised(name, approval, result, role=role)
        release = self.client.release(result)  # 2
        released, run = release.released, self.ticket.run
        application = self.ticket.ticket.application
        versions = {
            name: text for name in self.bindings if (text := self._bound_version(name, release)) is not None
        }  # 3
        writes: dict[str, NewWrite] = {}
        for name, binding in self.bindings.items():  # 4
            if binding.access == "write":
                write_id, key = released.run_write(name, run=run, application=application, driver_key=driver_key)
                base = self._verified(versions[name], name, release).number if name in versions else None
                wrapped = released.wrap(key, dataset=name, write_id=write_id)
                writes[name] = NewWrite(write_id=write_id, key=to_b64url(key.reveal()), wrapped=wrapped, base=base)
        share = released.run_share(min(self.bindings), run=run, application=application)
        return VaultAdmission(release=release, approvals=approvals, share=share, writes=writes, versions=versions)

    def _approval(self, name: str, binding: DatasetBinding) -> Approval:
        token = self.address.approvals.get(name)
        if token is None:
            raise RefusedError(
                f"there is no approval for dataset {name}",
                action="Give the owner's signed approval with the vault's key.",
                step=Step.RELEASE,
            )
        return verify_vault_approval(
            token, key=self.key, dataset=name, access=binding.access, ticket=self.ticket.ticket
        )

    def _bound_version(self, name: str, release: VaultRelease) -> str | None:
        """Return the statement of the version that a dataset is read at, or that its next one builds on."""
        binding, wanted = self.bindings[name], self.ticket.ticket.datasets[name]
        storage = Storage(self.storage[name])
        if binding.access == "write":
            number = newest_version(storage)
            if binding.version not in {None, number}:
                raise ConflictError(
                    f"the application builds on version {binding.version} of dataset {name}, which is not the newest",
                    action="Pack the application for the newest version and have it approved.",
                    step=Step.RELEASE,
                )
        else:
            number = wanted
            if number is None or binding.version not in {None, number}:
                raise RefusedError(
                    f"the run ticket names another version of dataset {name} than the application reads",
                    step=Step.RELEASE,
                    mismatches=(
                        Mismatch(name=f"version of {name}", expected=str(binding.version), actual=str(wanted)),
                    ),
                )
        if number is None:
            return None
        statement = read_version(storage, number)
        self._verified(statement, name, release, number=number)
        return statement

    def _verified(self, text: str, name: str, release: VaultRelease, number: int | None = None) -> DatasetVersion:
        run_key = release.released.version_key(name).verifying_key
        return verify_version(text, key=self.key, run_key=run_key, dataset=name, number=number)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedVault:
    """A vault's key after this TEE joined: gives write keys of bound versions, and makes versions."""

    member: VaultMember
    admission: VaultAdmission

    def version(self, statement: str, *, dataset: str) -> DatasetVersion:
        """Check a version's statement (see `verify_version`)."""
        run_key = self.admission.release.released.version_key(dataset).verifying_key
        return verify_version(statement, key=self.member.key, run_key=run_key, dataset=dataset)

    def write_keys(self, datasets: Mapping[str, WrittenDataset], *, now: datetime) -> ReleasedWriteKeys:
        """Return the write keys of bound versions. Under a vault's key no column has a key of its own.

        Raises:
            FormatError: A wrapped key is none.
            IntegrityError: A wrapped key is another dataset's or write's, or was changed.
        """
        del now  # nothing is asked of a service, whose clock would judge
        released = self.admission.release.released
        keys = {
            name: {
                write_id: released.unwrap(from_b64url(text), dataset=name, write_id=write_id)
                for write_id, text in asked.write_keys.items()
            }
            for name, asked in datasets.items()
        }
        return ReleasedWriteKeys(write_keys=keys, column_keys={})

    def statement(self, commit: Commit, *, now: datetime) -> str:
        """Sign the next version of a dataset that this run wrote; nothing is published yet."""
        base = self.admission.versions.get(commit.dataset)
        version = next_version(
            key=self.member.key,
            dataset=commit.dataset,
            base=None if base is None else self.version(base, dataset=commit.dataset),
            manifest_digest=commit.manifest_digest,
            write_ids=commit.write_ids,
            writer=f"run:{self.member.ticket.run}",
            created_at=now,
        )
        return sign_version(version, key=self.admission.release.released.version_key(commit.dataset))

    def publish(self, outputs: Mapping[str, str]) -> None:
        """Make signed statements the datasets' versions.

        Raises:
            ConflictError: Somebody else made one of these versions first.
        """
        for name, statement in outputs.items():
            number = self.version(statement, dataset=name).number
            publish_version(Storage(self.member.storage[name]), number, statement)

    def record(
        self, *, result: str, evidence: Evidence, joined_at: datetime, outputs: Mapping[str, str]
    ) -> VaultRecord:
        """Return what the receipt says of this key."""
        release = self.admission.release
        return VaultRecord(
            statement=self.member.address.statement,
            approvals={name: self.member.address.approvals[name] for name in self.member.bindings},
            member=RunMember(
                number=0, role="driver", joined_at=to_rfc3339(joined_at), result=result, evidence=evidence
            ),
            policy=to_b64url(release.policy),
            policy_immutable=release.policy_immutable,
            version_keys={
                name: release.released.version_key(name).verifying_key.to_jwk() for name in self.member.bindings
            },
            outputs=dict(outputs),
        )


def pinned_key(address: VaultAddress, *, identity: str) -> VaultKey:
    """Return the statement about a vault's key, if it is the one that a binding pins.

    Raises:
        FormatError: Not such a statement.
        ConfigurationError: Another one.
    """
    key = parse_vault_key(address.statement)
    if key.identity != identity:
        raise ConfigurationError(
            "the vault key's statement is not the one that the application was approved with",
            action="Give the statement whose digest the application's binding pins.",
            step=Step.RELEASE,
        )
    return key


def bindings_of(description: ApplicationDescription, *, identity: str) -> dict[str, DatasetBinding]:
    """Return the datasets of an application that are bound to one key service or vault's key."""
    return {name: each for name, each in description.datasets.items() if each.key_service == identity}


def _demand_appraised(name: str, approval: Approval, result: str, *, role: Role) -> None:
    claims = with_hardware(parse_json_object(unverified_payload(result)))
    mismatches = appraise_result(approval, claims, role=role)
    if mismatches:
        raise RefusedError(
            f"this TEE does not meet the approval for dataset {name}",
            action="Compare what was attested with what the owner approved.",
            step=Step.RELEASE,
            mismatches=mismatches,
        )
