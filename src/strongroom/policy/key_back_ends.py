"""What each keeper of keys can enforce, and the refusal of approvals that state more.

A vault releases its key as a whole into an attested TEE, as often as it is asked. So counts, leases, the log and the
word on which version is the newest have nobody who stands for them there. An approval for a vault names it
(`back_end`); it thereby accepts what the table says is not enforced, and every limit that it states beyond that is
refused, fields that this module does not know among them.

Source: Azure Key Vault, "Secure key release policy grammar"; "Attestation: supported authorities"; REST API, `Release`.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.policy.approval import MAX_RUNS, Approval
from strongroom.policy.tee_claims import TEE_CLAIMS


class KeyBackEnd(StrEnum):
    """What keeps a dataset's key; the values of `Approval.back_end`."""

    STRONGROOM = "strongroom"
    AZURE_MANAGED_HSM = "azure-managed-hsm"
    AZURE_KEY_VAULT = "azure-key-vault"


class KeyDemand(StrEnum):
    """What an owner may want of it."""

    ATTESTED = "the key's use for attested TEEs alone"
    WRAPPED = "only encrypted to a key of that TEE"
    APPLICATION = "one application"
    EVIDENCE_POLICY = "one evidence policy, chosen kinds of TEE"
    STRONGROOM_RESULTS = "results of a Strongroom attestation service"
    AZURE_RESULTS = "results of Azure Attestation"
    SIMULATED = "simulated hardware"
    KEK_STAYS = "the KEK stays with its keeper"
    FRESH = "evidence made for this very request"
    MACHINES = "chosen machines"
    LEAST_NUMBERS = "least numbers of the vendor's data"
    ACCESS = "read or write, not both"
    SUBMITTERS = "chosen submitters"
    RECIPIENTS = "chosen recipients of the output"
    MAX_RUNS = "number of runs"
    NOT_BEFORE = "beginning of the approval"
    NOT_AFTER = "end of the approval"
    DURATION = "how long a run gets keys"
    EXECUTORS = "number of executors"
    SHAPES = "pods and confidential nodes"
    WORKLOADS = "chosen service accounts of clusters"
    ONE_DRIVER = "one driver a ticket"
    SEVERAL = "k of n signatures"
    VERSIONS = "chosen versions"
    WRITERS = "versions of chosen writers"
    COLUMNS = "chosen columns with keys of their own"
    REVOCATION = "revocation before a run"
    REVOCATION_DURING = "revocation during a run"
    NEWEST_VERSION = "reading the newest version"
    PINNED_VERSION = "reading a pinned version"
    NEXT_VERSION = "two writers: one retries"
    LOG = "log of releases, proofs in the receipt"
    MEMBERS = "every TEE of the run in the receipt"
    OTHER = "everything else that an approval can state"


_SERVICE: Final = "the key service"
_POLICY: Final = "the key's release policy"
_AGENT: Final = "the measured agent"
_NO: Final = ""
_VAULT: Final[Mapping[KeyDemand, str]] = {
    KeyDemand.ATTESTED: _POLICY,
    KeyDemand.WRAPPED: "the vault",
    KeyDemand.APPLICATION: _POLICY,
    KeyDemand.EVIDENCE_POLICY: _POLICY,
    KeyDemand.AZURE_RESULTS: _POLICY,
    KeyDemand.ACCESS: _AGENT,
    KeyDemand.SUBMITTERS: _AGENT,
    KeyDemand.RECIPIENTS: _AGENT,
    KeyDemand.REVOCATION: "disable the key, or change its release policy",
    KeyDemand.PINNED_VERSION: "the owner's signature",
    KeyDemand.NEXT_VERSION: "storage: a version's name is taken once",
}
TABLE: Final[Mapping[KeyBackEnd, Mapping[KeyDemand, str]]] = {
    KeyBackEnd.STRONGROOM: {
        **dict.fromkeys(KeyDemand, _SERVICE),
        KeyDemand.RECIPIENTS: _AGENT,
    },
    KeyBackEnd.AZURE_MANAGED_HSM: {
        **_VAULT,
        KeyDemand.STRONGROOM_RESULTS: _POLICY,
        KeyDemand.SIMULATED: _POLICY,
    },
    KeyBackEnd.AZURE_KEY_VAULT: _VAULT,
}
"""By back end: who enforces what. What is not in it, nobody does."""
_COVERED: Final = frozenset(
    {
        "version",
        "dataset",
        "key_service",
        "application",
        "access",
        "evidence_policy_hash",
        "attestation_issuer",
        "hardware",
        "platform",
        "tees",
        "shape",
        "shapes",
        "max_runs",
        "not_after",
        "submitters",
        "recipients",
        "back_end",
        "issued_at",
        "purpose",
    }
)
"""Fields of an approval that `_demands` looks at, or that release policy and agent enforce."""
_LIMITS: Final[Mapping[str, KeyDemand]] = {
    "not_before": KeyDemand.NOT_BEFORE,
    "max_duration_s": KeyDemand.DURATION,
    "max_executors": KeyDemand.EXECUTORS,
    "max_executors_total": KeyDemand.EXECUTORS,
    "roster": KeyDemand.SEVERAL,
    "versions": KeyDemand.VERSIONS,
    "writers": KeyDemand.WRITERS,
    "columns": KeyDemand.COLUMNS,
    "workloads": KeyDemand.WORKLOADS,
}
"""Fields that are limits where they are stated at all; so is every other one that is not covered."""
_AZURE_ATTESTATION: Final = (".attest.azure.net", ".attest.azure.us", ".attest.azure.cn")
_OURS: Final = "x-ms-strongroom-"
"""How claims begin that Azure Attestation does not have."""


def is_azure_attestation(url: str) -> bool:
    """Return whether an attestation service's address is one of Azure Attestation's."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # half of an IPv6 address
        return False
    return host.endswith(_AZURE_ATTESTATION)


def not_enforced(back_end: KeyBackEnd) -> tuple[str, ...]:
    """Return what nobody enforces at a back end, in the table's words."""
    return tuple(demand for demand in KeyDemand if demand not in TABLE[back_end])


def demand_key_back_end(approval: Approval, back_end: KeyBackEnd) -> None:
    """Refuse an approval that what keeps the key cannot enforce.

    1. The approval names this back end: its owner knows what is not enforced there.
    2. Each limit that it states is one that the back end, its release policy or the measured agent enforces.
    3. Azure Attestation, where its results count, has a claim for everything that is demanded of a TEE.

    Args:
        approval: The owner's approval.
        back_end: What keeps the key.

    Raises:
        RefusedError: It does not, or something in it is not; the mismatches name everything.
    """
    mismatches = []
    if approval.back_end != back_end:
        mismatches.append(Mismatch(name="back end", expected=back_end, actual=approval.back_end))
    mismatches += [
        Mismatch(name=demand, expected=f"nothing of this kind at {back_end}", actual=stated)
        for demand, stated in _demands(approval)
        if demand not in TABLE[back_end]
    ]
    if is_azure_attestation(approval.attestation_issuer):
        mismatches += _beyond_azure_attestation(approval)
    if mismatches:
        raise RefusedError(
            f"{back_end} cannot enforce what the approval states",
            action="Keep the key in a key service of Strongroom's, or approve without these limits.",
            step=Step.POLICY,
            mismatches=tuple(mismatches),
        )


def _beyond_azure_attestation(approval: Approval) -> Iterator[Mismatch]:
    """Yield what Azure Attestation never says of a TEE, and a release policy would wait for in vain."""
    if approval.hardware == "simulated":
        yield Mismatch(name="hardware", expected="real at Azure Attestation", actual=approval.hardware)
    for tee in approval.tees:
        for claim in TEE_CLAIMS[tee].demanded:
            if claim.startswith(_OURS):
                yield Mismatch(name=claim, expected=f"a claim of Azure Attestation for {tee}", actual="none")


def _demands(approval: Approval) -> Iterator[tuple[KeyDemand, str]]:
    """Yield each limit that an approval states, and its words."""
    is_azures = is_azure_attestation(approval.attestation_issuer)
    yield KeyDemand.AZURE_RESULTS if is_azures else KeyDemand.STRONGROOM_RESULTS, approval.attestation_issuer
    if approval.hardware == "simulated":
        yield KeyDemand.SIMULATED, approval.hardware
    if approval.admitted_shapes != ("process",):
        yield KeyDemand.SHAPES, ", ".join(approval.admitted_shapes)
    if approval.platform is not None:
        if approval.platform.machines != "any":
            yield KeyDemand.MACHINES, approval.machines
        least = (approval.platform.min_tcb_evaluation_data_number, approval.platform.min_crl_number)
        if any(number is not None for number in least):
            yield KeyDemand.LEAST_NUMBERS, ", ".join(str(each) for each in least)
    if approval.max_runs < MAX_RUNS:
        yield KeyDemand.MAX_RUNS, f"at most {approval.max_runs}"
    if approval.not_after is not None:
        yield KeyDemand.NOT_AFTER, approval.not_after
    for name, field in type(approval).model_fields.items():
        value = getattr(approval, name)
        if name not in _COVERED and value != field.get_default(call_default_factory=True):
            yield _LIMITS.get(name, KeyDemand.OTHER), f"{name} = {value}"


def key_back_ends_section() -> str:
    """Return the documentation's part: who enforces what at each back end."""
    rows = [
        ["what an owner wants", *KeyBackEnd],
        ["---"] * (1 + len(KeyBackEnd)),
        *([demand, *(TABLE[each].get(demand) or "**no**" for each in KeyBackEnd)] for demand in KeyDemand),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    parts = ["", "# What each keeper of keys can enforce", _INTRODUCTION, table, "## Notes on keepers of keys", _NOTES]
    return "\n\n".join(parts)[1:] + "\n"


_INTRODUCTION: Final = """\
A cell names who enforces it; **no** means that nobody does: an approval for that back end that states such a limit is
refused, and one that names the back end accepts the rest. How to use a vault is in
[the how-to](../how-to/azure-key-vault.md)."""
_NOTES: Final = f"""\
- *The measured agent* is the code whose measurement the evidence policy names. It holds to what the owner signed,
  whatever the host says. It cannot count across TEEs, and has no clock but the host's.
- A vault releases its key as a whole. The KEK is then in the agent's memory, for as long as the TEE runs; Spark gets
  keys of single files, as with a key service.
- Evidence is not made for a vault's nonce, because vaults give none. An old attestation result yields a key that is
  wrapped to the TEE that the result is about, whose private key ends with it.
- An approval becomes a release policy of `equals` alone, which every vault knows: lists of machines and least numbers
  are not put into words there. Put least numbers into the evidence policy, whose hash the release policy names.
- Key Vault accepts results of Azure Attestation alone; a Managed HSM those of any issuer that publishes its keys as
  OpenID Connect does.
- Pods and confidential nodes are let in by Strongroom's key services alone: no vault looks for where a digest stands.
- Azure Attestation does not say whether a trust domain can move to another machine. Every approval demands that it
  cannot, so approvals that count on its results name SGX or SEV-SNP.
- Of SEV-SNP, Azure Attestation does not say from which report a result was made. Receipts show that result and report
  have the same report data: the hash of keys that the TEE made for this one run, and quotes once.
- "Number of runs" in an approval for a vault is {MAX_RUNS}, the largest that an approval can name: nobody counts.
- Versions of several datasets take effect one after the other, after those at a key service: a run that is cut off in
  between leaves some of them.
- The newest version is the newest that storage shows: who keeps storage can keep back later ones. Bind a version to
  read exactly that one."""
