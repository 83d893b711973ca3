"""Quotes of an SGX enclave that runs under Occlum, through its device `/dev/sgx`.

Source: Occlum, documentation "Remote attestation" and `test/ioctl`; the structures are those of its Linux SDK.
"""

import ctypes
from pathlib import Path
from typing import Final

from strongroom.attestation.attester.controls import Controls, is_busy, opened
from strongroom.attestation.attester.device import REPORT_DATA_BYTES, Quote
from strongroom.base.errors import FormatError, LimitError, UnavailableError
from strongroom.base.limits import LIMITS

DEVICE: Final = "dev/sgx"
GET_DCAP_QUOTE_SIZE: Final = 0x80047307
GEN_DCAP_QUOTE: Final = 0xC0187308
_NOT_THERE: Final = "Run this inside an Occlum enclave that was built for hardware mode."
_NO_QUOTE: Final = "Check that the machine's quoting service (aesmd) runs, and that the enclave is in hardware mode."


class GenDcapQuote(ctypes.Structure):
    """Argument of GEN_DCAP_QUOTE: addresses of the report data, of the quote's size, and of its buffer."""

    _fields_ = (
        ("report_data", ctypes.c_void_p),
        ("quote_len", ctypes.c_void_p),
        ("quote_buf", ctypes.c_void_p),
    )


def ask_occlum(report_data: bytes, *, controls: Controls, root: Path) -> Quote:
    """Have Occlum quote this enclave.

    1. Ask how large a quote is.
    2. Ask for the quote; while the device is busy, again, a bounded number of times.

    Raises:
        ConfigurationError: There is no such device here.
        FormatError: The device names a size that it did not announce.
        LimitError: The quote is larger than allowed.
        UnavailableError: The device refuses, or stays busy.
    """
    size = ctypes.c_uint32()
    with opened(root / DEVICE, action=_NOT_THERE) as device:
        try:
            controls.call_patiently(device, GET_DCAP_QUOTE_SIZE, size, busy=is_busy)  # 1
            announced = size.value
            if announced > LIMITS.evidence_bytes:
                raise LimitError("Occlum announces a quote that is larger than allowed")
            data = (ctypes.c_uint8 * REPORT_DATA_BYTES).from_buffer_copy(report_data)
            quote = (ctypes.c_uint8 * announced)()
            argument = GenDcapQuote(
                report_data=ctypes.addressof(data), quote_len=ctypes.addressof(size), quote_buf=ctypes.addressof(quote)
            )
            controls.call_patiently(device, GEN_DCAP_QUOTE, argument, busy=is_busy)  # 2
        except OSError as error:
            raise UnavailableError(f"Occlum got no quote: {error.strerror}", action=_NO_QUOTE) from error
    if size.value > announced:
        raise FormatError("Occlum's quote is larger than Occlum announced")
    return Quote(kind="sgx", data=bytes(quote)[: size.value])
