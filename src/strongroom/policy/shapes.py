"""The shapes of a TEE: whom each leaves inside with the application, and which results are of which shape.

    process            a TEE for each process, or group of processes: the application digest itself stands in the field
                       that is fixed at launch, and what is measured is all that runs. Trusted beside the hardware: the
                       measured agent.
    pod                a TEE for each pod (Kata, Confidential Containers): the digest stands in a document whose hash
                       was fixed at launch. What runs is what this document lets the measured guest components start,
                       so the rest of the document is trusted, and has to be named by whoever trusts it.
    confidential-node  a virtual machine that is a cluster's node: nothing is fixed at launch, the digest stands in
                       runtime data alone. Whoever administers the node, and so the cluster's administrator, decides
                       what runs there and reads its memory; the machine's owner does not.

The shape follows from where verified evidence has the digest. No host says it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from strongroom.base.encoding import Json
from strongroom.policy.claims import Claims, ClaimValue
from strongroom.policy.tee_claims import (
    AZURE_VM,
    INITDATA_APPLICATION,
    ISOLATION,
    RUNTIME_ATTESTED,
    TEE_CLAIMS,
)
from strongroom.wire.model import SHAPES, TEE_KINDS, Shape, TeeKind

VIRTUAL: Final[tuple[TeeKind, ...]] = ("tdx", "snp")
TEES_OF: Final[Mapping[Shape, tuple[TeeKind, ...]]] = {
    "process": TEE_KINDS,
    "pod": VIRTUAL,
    "confidential-node": VIRTUAL,
}
"""The kinds of TEE that each shape can be made of."""
_OURS: Final = "x-ms-strongroom-"
_TYPE: Final = "x-ms-attestation-type"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form that results of one shape and kind of TEE have: claims by their dotted paths, and what each says.

    Attributes:
        evidence: Which evidence it is.
        demanded: That the host can neither look into the TEE nor move it, whatever else is approved.
        application: Where the application digest stands, beside the runtime data.
    """

    evidence: Mapping[str, ClaimValue]
    demanded: Mapping[str, ClaimValue]
    application: Mapping[str, ClaimValue]


def forms(shape: Shape, tee: TeeKind, *, application: str) -> Iterator[Form]:
    """Yield the forms in which results of a shape come; none where no TEE of that kind has it.

    Args:
        shape: The shape.
        tee: The kind of TEE, of an Azure confidential VM that of the hardware below its paravisor.
        application: The application digest, hexadecimal.
    """
    if tee not in TEES_OF[shape]:
        return
    claims = TEE_CLAIMS[tee]
    evidence = {_TYPE: claims.attestation_type}
    match shape:
        case "process":
            place: dict[str, ClaimValue] = {claims.launched_with: claims.launch_value(application)}
            yield Form(evidence=evidence, demanded=claims.demanded, application=place)
        case "pod":
            yield Form(evidence=evidence, demanded=claims.demanded, application={INITDATA_APPLICATION: application})
        case "confidential-node":
            nothing: dict[str, ClaimValue] = {claims.launched_with: claims.launch_value("")}
            yield Form(evidence=evidence, demanded=claims.demanded, application=nothing)
            yield Form(
                evidence={_TYPE: AZURE_VM, f"{ISOLATION}.{_TYPE}": claims.attestation_type},
                demanded={_below(name): value for name, value in claims.demanded.items()},
                application={RUNTIME_ATTESTED: True},
            )


def shape_of(claims: Claims) -> Shape | None:
    """Return the shape of the TEE that a result is about, whatever an approval says of it.

    Args:
        claims: The claims of a verified attestation result.

    Returns:
        The shape; None where the digest in the runtime data stands nowhere else, and the TEE is no confidential node
        either: it was launched for something else, or its kind of evidence is not known here.
    """
    match claims.get("x-ms-runtime"):
        case {"application": str(application)}:
            pass
        case _:
            return None
    for shape in SHAPES:
        for tee in TEES_OF[shape]:
            for form in forms(shape, tee, application=application):
                said = {**form.evidence, **form.application}
                if all(_says(claims, path, value) for path, value in said.items()):
                    return shape
    return None


def _below(name: str) -> str:
    """Return where a claim of the hardware stands in a confidential VM's result: ours stay outside."""
    return name if name.startswith(_OURS) else f"{ISOLATION}.{name}"


def _says(claims: Claims, path: str, value: ClaimValue) -> bool:
    found: Json = claims
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return type(found) is type(value) and found == value
