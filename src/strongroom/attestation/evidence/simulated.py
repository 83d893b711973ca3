"""How simulated hardware says that it is simulated, and the names both of its sides agree on.

The verifier and the simulator share this module, so that the mark is written in one place.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from strongroom.crypto.x509 import STRONGROOM_ARC

SIMULATED_HARDWARE: Final = f"{STRONGROOM_ARC}.1"
"""Object identifier of the **critical** extension of every simulated root certificate.

It is marked critical, so that a verifier which does not know it (dcap-qvl, OpenSSL, Intel's own) refuses the root,
and ours accepts it only where the configuration says `simulated` as well. Its value is a UTF8String for people.
"""
SIMULATED_HARDWARE_TEXT: Final = "Simulated hardware of Strongroom: it protects nothing"

ENTRIES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "strongroom.agent": 1,
        "strongroom.services.attestation_service": 2,
        "strongroom.services.key_service": 3,
    }
)
"""What may be launched in a simulated enclave: the entry module and its `isv_prod_id`."""


def entry_command(python: str, entry: str) -> list[str]:
    """Return the one command line under which the simulated platform launches an entry; arguments follow it.

    Python runs isolated (`-I`): neither the environment nor the working directory can put other code before the
    measured one.

    Args:
        python: Absolute path of the environment's interpreter (`sys.executable`).
        entry: A name in `ENTRIES`.
    """
    return [python, "-I", "-m", entry]
