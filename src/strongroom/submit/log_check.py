"""Checking a key service's log as a whole, for owners and auditors: its tree, its witnesses, what its leaves say."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from strongroom.base.errors import InconsistentLogError, NotFoundError, RefusedError
from strongroom.clients.pinned import ServiceHttp
from strongroom.clients.seen_log import log_key_of
from strongroom.clients.witness import WitnessClient
from strongroom.log.audit import AuditReport, audit
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint
from strongroom.log.cosignature import Cosignature, verify_cosignatures, witness_key
from strongroom.log.merkle import MerkleTree, leaf_hash
from strongroom.log.note import NoteKey
from strongroom.wire.trust import TrustedService

_KEEP_BOTH = "Keep both checkpoints: together they prove that the log shows two histories. Tell the other users of it."


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessedView:
    """The newest cosigned checkpoint: its size, and who cosigned it."""

    size: int
    cosignatures: tuple[Cosignature, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLog:
    """A log whose leaves make the tree of its checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        report: What the leaves say.
        witnessed: The newest checkpoint that known witnesses cosigned, which the log extends; None if there is none.
    """

    checkpoint: Checkpoint
    report: AuditReport
    witnessed: WitnessedView | None


class LeafTree:
    """Leaves on their way into the audit, and the tree that they make."""

    def __init__(self) -> None:
        self.tree = MerkleTree()

    def pass_on(self, leaves: Iterable[str]) -> Iterable[str]:
        """Yield the leaves, having hashed each."""
        for leaf in leaves:
            self.tree.append(leaf_hash(leaf.encode()))
            yield leaf

    def demand(self, checkpoint: Checkpoint, *, whose: str) -> None:
        """Refuse a checkpoint that these leaves do not make.

        Raises:
            InconsistentLogError: They are others, or fewer.
        """
        if checkpoint.size > self.tree.size or self.tree.root(checkpoint.size) != checkpoint.root:
            raise InconsistentLogError(
                f"the log's entries are not those of the checkpoint of size {checkpoint.size} {whose}",
                action=_KEEP_BOTH,
            )


def check_log(
    note: str, leaves: Iterable[str], *, service: TrustedService, others: Sequence[tuple[str, str]], now: datetime
) -> CheckedLog:
    """Check a log as a whole.

    1. The checkpoint is signed by the pinned log key.
    2. The leaves make exactly its tree; what they say is audited (`log.audit.audit`).
    3. Every other checkpoint of this log, wherever it came from, is one of this tree.

    Args:
        note: The newest checkpoint.
        leaves: All leaves up to its size, in order.
        service: The key service, as it was pinned.
        others: Further signed checkpoints of the log, each with a word on where it comes from.
        now: The present time.

    Raises:
        VerificationError: A checkpoint is not signed by the pinned key.
        InconsistentLogError: The leaves make another tree than a checkpoint says.
    """
    key = log_key_of(service.log_key)
    checkpoint = parse_and_verify_checkpoint(note, origin=key.name, key=key.key)  # 1
    tree = LeafTree()
    report = audit(tree.pass_on(leaves), now=now)  # 2
    if tree.tree.size != checkpoint.size:
        raise InconsistentLogError(f"the log shows {tree.tree.size} entries, its checkpoint has size {checkpoint.size}")
    tree.demand(checkpoint, whose="that it shows")
    witnesses = [witness_key(line) for line in service.witnesses]
    witnessed: WitnessedView | None = None
    for other, whose in others:  # 3
        found = parse_and_verify_checkpoint(other, origin=key.name, key=key.key)
        tree.demand(found, whose=whose)
        signed = verify_cosignatures(other, witnesses=witnesses)
        if signed and (witnessed is None or (len(signed), found.size) > (len(witnessed.cosignatures), witnessed.size)):
            witnessed = WitnessedView(size=found.size, cosignatures=signed)
    return CheckedLog(checkpoint=checkpoint, report=report, witnessed=witnessed)


def demand_enough_witnesses(checked: CheckedLog, service: TrustedService) -> None:
    """Refuse a log that fewer witnesses cosigned than the trust file demands.

    Raises:
        RefusedError: Fewer did.
    """
    found = len(checked.witnessed.cosignatures) if checked.witnessed else 0
    if found < service.witnesses_required:
        raise RefusedError(
            f"{found} witnesses cosigned the log, the trust file demands {service.witnesses_required}",
            action="Ask the data owner why they do not sign, and the witnesses which checkpoint they saw last.",
        )


def witnessed_checkpoint(http: ServiceHttp) -> str | None:
    """Return the newest cosigned checkpoint that a key service shows; None if there is none."""
    try:
        return http.request("GET", "/strongroom/v1/log/witnessed").require_success().decode("utf-8", "replace")
    except NotFoundError:
        return None


def ask_witness(url: str, key: NoteKey, *, origin: str, certificate_pem: str | None, timeout_s: float) -> str | None:
    """Ask a witness itself for the newest checkpoint of a log that it cosigned.

    This is what catches a log that shows its witnesses one history and its owners another.

    Raises:
        UnavailableError: It does not answer.
        VerificationError: What it shows is not cosigned by it.
    """
    client = WitnessClient(url, key=key, certificate_pem=certificate_pem, timeout_s=timeout_s)
    try:
        return client.latest(origin)
    finally:
        client.close()
