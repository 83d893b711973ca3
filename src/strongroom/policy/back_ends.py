"""What each attestation back end can express, and the refusal of approvals that need more.

An approval is only worth what the attestation service behind it can say: a demand that no claim stands for would be
passed over in silence. So every demand has a row here, and for every kind of TEE the claim that it is enforced with.
What is not in the table is refused.

Source: Azure Attestation, "Claim sets"; azure-rest-api-specs, `AttestSgxEnclave.json`, `AttestTdxVm.json`,
`AttestSevSnpVm.json`; Azure guest attestation, `sampleAttestationToken.json`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.policy.tee_claims import INITDATA_APPLICATION, ISOLATION, QUOTE_HASH

Place: TypeAlias = Literal["launch", "document", "runtime"]
"""Where an application digest stands: in the field that is fixed at launch, in a document whose hash stands there, or
in runtime data alone."""


class BackEnd(StrEnum):
    """Attestation services."""

    STRONGROOM = "Strongroom"
    AZURE_ATTESTATION = "Azure Attestation"


class TeeKind(StrEnum):
    """Kinds of TEEs; Azure's confidential VMs by the hardware below."""

    SGX = "SGX"
    TDX = "TDX"
    SNP = "SEV-SNP"
    AZURE_VM_SNP = "Azure VM on SEV-SNP"
    AZURE_VM_TDX = "Azure VM on TDX"


class Demand(StrEnum):
    """What an approval can ask for."""

    NONCE = "nonce of the key service"
    EVIDENCE = "hash of the evidence"
    LAUNCH_DIGEST = "application digest fixed at launch"
    LAUNCH_DOCUMENT = "application digest in a document fixed at launch"
    RUNTIME_DIGEST = "application digest in runtime data"
    MEASUREMENT = "measurement of the image"
    NO_DEBUG = "no debug"
    NO_MIGRATION = "no migration"
    REAL_HARDWARE = "real hardware"
    SIMULATED_HARDWARE = "simulated hardware"
    HARDWARE_LIST = "hardware allow-list"
    HARDWARE_ANY = "hardware = any"
    TCB_STATUS = "TCB status"
    TCB_EVALUATION = "minimum tcbEvaluationDataNumber"
    CRL_NUMBER = "minimum CRL number"
    REGISTERS = "boot registers (PCRs)"
    AUDIENCE = "audience"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What an approval needs of an attestation result.

    Attributes:
        tee: The kind of TEE.
        hardware: Exactly this kind.
        application: Where the application digest must stand; in runtime data alone is the weaker shape.
        hardware_ids: Processors or chips that are allowed, or "any"; an empty list allows none.
        tcb_status: Whether a TCB status is demanded.
        min_tcb_evaluation_data_number: The oldest knowledge of the vendor's that is accepted.
        min_crl_number: The oldest revocation list that is accepted.
        no_migration: Whether TEEs that can move to another machine are refused.
        registers: Numbers of boot registers whose values are demanded.
        audience: For whom the result must be.
    """

    tee: TeeKind
    hardware: Literal["real", "simulated"]
    application: Place
    hardware_ids: tuple[str, ...] | Literal["any"]
    tcb_status: bool = False
    min_tcb_evaluation_data_number: int | None = None
    min_crl_number: int | None = None
    no_migration: bool = False
    registers: tuple[int, ...] = ()
    audience: str | None = None

    def demands(self) -> Iterator[Demand]:
        """Yield what is asked for; nonce, hash, measurement and no debug always are."""
        yield from (Demand.NONCE, Demand.EVIDENCE, Demand.MEASUREMENT, Demand.NO_DEBUG, Demand.RUNTIME_DIGEST)
        yield Demand.REAL_HARDWARE if self.hardware == "real" else Demand.SIMULATED_HARDWARE
        yield Demand.HARDWARE_ANY if self.hardware_ids == "any" else Demand.HARDWARE_LIST
        optional = {
            Demand.LAUNCH_DIGEST: self.application == "launch",
            Demand.LAUNCH_DOCUMENT: self.application == "document",
            Demand.TCB_STATUS: self.tcb_status,
            Demand.TCB_EVALUATION: self.min_tcb_evaluation_data_number is not None,
            Demand.CRL_NUMBER: self.min_crl_number is not None,
            Demand.NO_MIGRATION: self.no_migration,
            Demand.REGISTERS: bool(self.registers),
            Demand.AUDIENCE: self.audience is not None,
        }
        yield from (demand for demand, asked in optional.items() if asked)


_ANY: Final = "nothing to enforce"
_ALL_REAL: Final = "all its hardware is real"
_RUNTIME: Final = {Demand.NONCE: "x-ms-runtime.nonces", Demand.RUNTIME_DIGEST: "x-ms-runtime.application"}
_SGX: Final = {
    Demand.EVIDENCE: "x-ms-sgx-collateral.quotehash",
    Demand.LAUNCH_DIGEST: "x-ms-sgx-config-id",
    Demand.MEASUREMENT: "x-ms-sgx-mrenclave",
    Demand.NO_DEBUG: "x-ms-sgx-is-debuggable",
    Demand.NO_MIGRATION: "no enclave migrates",
}
_TDX: Final = {
    Demand.LAUNCH_DIGEST: "tdx_mrconfigid",
    Demand.MEASUREMENT: "tdx_mrtd",
    Demand.NO_DEBUG: "tdx_td_attributes_debug",
    Demand.TCB_STATUS: "attester_tcb_status",
}
_SNP: Final = {
    Demand.LAUNCH_DIGEST: "x-ms-sevsnpvm-hostdata",
    Demand.MEASUREMENT: "x-ms-sevsnpvm-launchmeasurement",
    Demand.NO_DEBUG: "x-ms-sevsnpvm-is-debuggable",
    Demand.NO_MIGRATION: "x-ms-sevsnpvm-migration-allowed",
}


def _inside(claims: Mapping[Demand, str]) -> dict[Demand, str]:
    """Return the claims of a confidential VM's hardware; what is fixed at launch there is no application's."""
    return {demand: f"{ISOLATION}.{claim}" for demand, claim in claims.items() if demand != Demand.LAUNCH_DIGEST}


_OURS: Final = {
    Demand.REAL_HARDWARE: "x-ms-strongroom-hardware",
    Demand.SIMULATED_HARDWARE: "x-ms-strongroom-hardware",
    Demand.HARDWARE_ANY: _ANY,
    Demand.HARDWARE_LIST: "x-ms-strongroom-machines",
    Demand.CRL_NUMBER: "x-ms-strongroom-crl-number",
}
_OUR_INTEL: Final = {
    Demand.TCB_STATUS: "x-ms-strongroom-tcb-status",
    Demand.TCB_EVALUATION: "x-ms-strongroom-tcb-evaluation-data-number",
}
_OUR_HASH: Final = {Demand.EVIDENCE: QUOTE_HASH}
_OUR_DOCUMENT: Final = {Demand.LAUNCH_DOCUMENT: INITDATA_APPLICATION}
_OUR_TDX: Final = {**_OUR_INTEL, Demand.NO_MIGRATION: "x-ms-strongroom-migratable"}
_OUR_REGISTERS: Final = {Demand.REGISTERS: "x-ms-strongroom-pcr0"}
_AZURES: Final = {Demand.REAL_HARDWARE: _ALL_REAL, Demand.HARDWARE_ANY: _ANY}

TABLE: Final[Mapping[BackEnd, Mapping[TeeKind, Mapping[Demand, str]]]] = {
    BackEnd.STRONGROOM: {
        TeeKind.SGX: {**_RUNTIME, **_SGX, **_OURS, **_OUR_INTEL},
        TeeKind.TDX: {**_RUNTIME, **_TDX, **_OURS, **_OUR_TDX, **_OUR_HASH, **_OUR_DOCUMENT},
        TeeKind.SNP: {**_RUNTIME, **_SNP, **_OURS, **_OUR_HASH, **_OUR_DOCUMENT},
        TeeKind.AZURE_VM_SNP: {**_RUNTIME, **_inside(_SNP), **_OURS, **_OUR_HASH, **_OUR_REGISTERS},
        TeeKind.AZURE_VM_TDX: {**_RUNTIME, **_inside(_TDX), **_OURS, **_OUR_HASH, **_OUR_TDX, **_OUR_REGISTERS},
    },
    BackEnd.AZURE_ATTESTATION: {
        TeeKind.SGX: {**_RUNTIME, **_SGX, **_AZURES},
        TeeKind.TDX: {**_RUNTIME, **_TDX, **_AZURES},
        TeeKind.SNP: {**_RUNTIME, **_SNP, **_AZURES},
        TeeKind.AZURE_VM_SNP: {**_inside(_SNP), **_AZURES},
        TeeKind.AZURE_VM_TDX: {**_inside(_TDX), **_AZURES},
    },
}
"""By back end and kind of TEE: what can be demanded, and the claim, or the fact, that it is enforced with."""


def demand_supported(requirements: Requirements, back_end: BackEnd) -> None:
    """Refuse requirements that a back end cannot enforce.

    Args:
        requirements: What the approval needs.
        back_end: The attestation service that the approval names.

    Raises:
        RefusedError: It cannot enforce all of them, or the list of hardware is empty; the mismatches name each.
    """
    supported = TABLE[back_end][requirements.tee]
    mismatches = [
        Mismatch(name=demand, expected=f"a claim of {back_end} for {requirements.tee}", actual="none")
        for demand in requirements.demands()
        if demand not in supported
    ]
    if not requirements.hardware_ids:
        mismatches.append(Mismatch(name=Demand.HARDWARE_LIST, expected="at least one, or any", actual="an empty list"))
    if mismatches:
        raise RefusedError(
            f"{back_end} cannot enforce what the approval demands of {requirements.tee}",
            action="Use another attestation service or TEE, or approve without these demands.",
            step=Step.POLICY,
            mismatches=tuple(mismatches),
        )


def demand_least_numbers(requirements: Requirements, back_end: BackEnd) -> None:
    """Refuse requirements that leave out a least number which the back end could enforce.

    Args:
        requirements: What the approval needs.
        back_end: The attestation service that the approval names.

    Raises:
        RefusedError: A number is left out; the mismatches name each.
    """
    numbers = {
        Demand.TCB_EVALUATION: requirements.min_tcb_evaluation_data_number,
        Demand.CRL_NUMBER: requirements.min_crl_number,
    }
    mismatches = tuple(
        Mismatch(name=demand, expected="a number", actual="none")
        for demand, number in numbers.items()
        if number is None and demand in TABLE[back_end][requirements.tee]
    )
    if mismatches:
        raise RefusedError(
            "an approval of real hardware says how fresh the vendor's word about it must be",
            action="Approve with --min-tcb-evaluation and --min-crl.",
            step=Step.POLICY,
            mismatches=mismatches,
        )


def back_ends_page() -> str:
    """Return the documentation's page: a table for each back end."""
    parts = [
        "# What each attestation back end can express",
        _INTRODUCTION,
        *(text for back_end in BackEnd for text in (f"## {back_end}", _table(back_end))),
        "## Notes",
        _NOTES,
    ]
    return "\n\n".join(parts) + "\n"


def _table(back_end: BackEnd) -> str:
    rows = [
        ["demand", *TeeKind],
        ["---"] * (1 + len(TeeKind)),
        *([demand, *(_cell(back_end, tee, demand) for tee in TeeKind)] for demand in Demand),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(back_end: BackEnd, tee: TeeKind, demand: Demand) -> str:
    claim = TABLE[back_end][tee].get(demand, "**no**")
    return claim if " " in claim or "*" in claim else f"`{claim}`"


_INTRODUCTION: Final = """\
This page is generated from the code (`strongroom dev generate`). A cell names the claim, or the fact, with which a
demand is enforced; **no** means that an approval with this demand is refused for this back end and TEE."""
_NOTES: Final = """\
- On Azure's confidential VMs the paravisor is what is measured and fixed at launch. An application's digest can stand
  in runtime data only, which is the weaker shape (`confidential-node`): whoever administers the guest's system chooses
  it. An approval of that shape is of other clouds' nodes too, so both columns of its kind of hardware have to do.
- A pod's application digest stands in its initdata. Azure Attestation compares such a document with HOST_DATA alone,
  and says nothing of what is in it.
- Azure's client has the vTPM of a confidential VM sign nothing of the client payload, which Azure Attestation copies
  into its result. So there neither a nonce nor an application digest is attested. Our service says whether the vTPM
  signed it (`x-ms-strongroom-runtime-data-attested`), and `POST /strongroom/v1/attest/AzureVm` takes nothing else.
- Of TDX and SEV-SNP, Azure Attestation does not say from which quote or report a result was made. Key services release
  to a TEE only with its evidence beside the result, so that auditors can verify it; without the hash, other evidence
  could stand there.
- Azure Attestation names no processor and no chip. With it, hardware can only be "any".
- A policy of Azure Attestation can fix a TCB baseline for SGX (`x-ms-sgx-tcbidentifier`), but the result does not say
  which one was used, so an approval cannot demand it. AMD has neither a TCB status nor an evaluation number: the TCB of
  SEV-SNP is its version numbers (`x-ms-sevsnpvm-…-svn`), which policies compare.
- Azure Attestation does not say which revocation lists it used. Neither back end says for whom a result is; that it is
  for one key service follows from that service's nonce in the runtime data."""
