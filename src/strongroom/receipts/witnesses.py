"""How many of the witnesses that a trust file names cosigned a checkpoint."""

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.log.cosignature import Cosignature, verify_cosignatures, witness_key
from strongroom.wire.trust import TrustedService


def demand_witnesses(checkpoint: str, service: TrustedService, *, minimum: int = 0) -> tuple[Cosignature, ...]:
    """Return who cosigned a checkpoint of a key service's log; refuse fewer than the trust file or the caller demands.

    Args:
        checkpoint: The signed note; the log's own signature is verified already.
        service: The key service, as it was pinned.
        minimum: The caller's own demand, where it is larger.

    Raises:
        FormatError: A witness's key in the trust file is malformed.
        VerificationError: A cosignature with a known witness's name and key id does not hold.
        RefusedError: Too few.
    """
    keys = [witness_key(line) for line in service.witnesses]
    found = verify_cosignatures(checkpoint, witnesses=keys)
    demanded = max(service.witnesses_required, minimum)
    if len(found) < demanded:
        names = ", ".join(each.witness for each in found)
        raise RefusedError(
            "too few witnesses cosigned the key service's log",
            action="Ask the data owner why: without witnesses, a log can show two people two histories.",
            mismatches=(
                Mismatch(
                    name="witnesses",
                    expected=f"at least {demanded} of {len(keys)} known ones",
                    actual=f"{len(found)}{f' ({names})' if names else ''}",
                ),
            ),
        )
    return found
