"""Quotes of an SGX enclave that runs under Gramine, through its pseudo-files.

The manifest says `sgx.remote_attestation = "dcap"`. The files belong to one process: what it writes, others do not see.

Source: Gramine documentation, "Attestation and Secret Provisioning", low-level /dev/attestation interface.
"""

from pathlib import Path
from typing import Final

from strongroom.attestation.attester.device import Quote
from strongroom.attestation.attester.files import DeviceFiles
from strongroom.base.errors import ConfigurationError, UnavailableError
from strongroom.base.limits import LIMITS

FOLDER: Final = "dev/attestation"
_TYPE_BYTES: Final = 64
_MANIFEST: Final = 'Set sgx.remote_attestation = "dcap" in the manifest, sign it again, and check what approvals name.'


def ask_gramine(report_data: bytes, *, files: DeviceFiles, root: Path) -> Quote:
    """Have Gramine quote this enclave.

    1. The manifest allows DCAP quotes.
    2. Write the report data, then read the quote that Gramine makes of them.

    Raises:
        ConfigurationError: This is no process under Gramine, or its manifest allows no DCAP quotes.
        LimitError: The quote is larger than allowed.
        UnavailableError: Gramine got no quote.
    """
    folder = root / FOLDER
    try:
        attestation_type = files.read(folder / "attestation_type", limit_bytes=_TYPE_BYTES).strip()
    except OSError as error:
        raise ConfigurationError(
            f"there is no attestation interface of Gramine here: {error.strerror}", action=_MANIFEST
        ) from error
    if attestation_type != b"dcap":  # 1
        text = attestation_type.decode("ascii", errors="replace")
        raise ConfigurationError(f"Gramine's attestation type is {text}, not dcap", action=_MANIFEST)
    try:
        files.write(folder / "user_report_data", report_data)  # 2
        quote = files.read(folder / "quote", limit_bytes=LIMITS.evidence_bytes)
    except OSError as error:
        raise UnavailableError(
            f"Gramine got no quote: {error.strerror}",
            action="Check that the machine's quoting service (aesmd) runs and reaches its collateral service.",
        ) from error
    return Quote(kind="sgx", data=quote)
