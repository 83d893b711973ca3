"""The few commands of a TPM 2.0 that evidence of an Azure confidential VM needs, over the kernel's device.

Source: TCG TPM 2.0 Library, Part 1, 18 (sessions); Part 2; Part 3: Commands. Why it is our own: ADR 0008.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from typing_extensions import override

from strongroom.attestation.evidence.reader import ByteReader
from strongroom.attestation.evidence.tpm import (
    ALG_NULL,
    ALG_RSA,
    ALG_RSAES,
    ALG_RSASSA,
    ALG_SHA256,
    CC_POLICY_PCR,
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    NO_DA,
    REGISTERS,
    SELECTED_BYTES,
    SENSITIVE_DATA_ORIGIN,
    select,
    sized,
)
from strongroom.base.errors import FormatError, NotFoundError, UnavailableError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.random import random_bytes

DEVICE: Final = Path("/dev/tpmrm0")
HANDLE_TYPES: Final = {"nv": 0x01000000, "transient": 0x80000000, "persistent": 0x81000000}

_RH_OWNER: Final = 0x40000001
_RH_NULL: Final = 0x40000007
_RS_PW: Final = 0x40000009
_ST_NO_SESSIONS: Final = 0x8001
_ST_SESSIONS: Final = 0x8002
_CAP_HANDLES: Final = 1
_SE_POLICY: Final = 1
_RSA_BITS: Final = 2048
_NV_ATTRIBUTES: Final = 1 << 1 | 1 << 2 | 1 << 17 | 1 << 18
"""The owner and whoever knows the (empty) password read and write."""
_NV_CHUNK_BYTES: Final = 512
_PCRS_A_READ: Final = 8
_NONCE_BYTES: Final = 16
_MAX_HANDLES: Final = 254
_HEADER: Final = struct.Struct(">HII")
_RESPONSE_BYTES: Final = 4096
_BUSY: Final = (0x908, 0x90A, 0x922)
"""TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY."""
_TRIES: Final = 100
_HANDLE_CODES: Final = (0x08B, 0x18B, 0x28B)
"""TPM_RC_HANDLE, of which handle."""

_NV_UNDEFINE_SPACE: Final = 0x122
_NV_DEFINE_SPACE: Final = 0x12A
_CREATE_PRIMARY: Final = 0x131
_NV_WRITE: Final = 0x137
_CERTIFY: Final = 0x148
_NV_READ: Final = 0x14E
_QUOTE: Final = 0x158
_RSA_DECRYPT: Final = 0x159
_FLUSH_CONTEXT: Final = 0x165
_NV_READ_PUBLIC: Final = 0x169
_READ_PUBLIC: Final = 0x173
_START_AUTH_SESSION: Final = 0x176
_GET_CAPABILITY: Final = 0x17A
_PCR_READ: Final = 0x17E


class TpmChannel(Protocol):
    """The way to a TPM."""

    def transact(self, command: bytes) -> bytes:
        """Send one command and return its response.

        Raises:
            UnavailableError: The TPM does not answer.
        """


class DeviceTpm(TpmChannel):
    """A TPM behind the kernel's resource manager.

    Args:
        path: The device.

    Raises:
        UnavailableError: It is not there, or this process may not use it.
    """

    def __init__(self, path: Path = DEVICE) -> None:
        try:
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise UnavailableError(
                f"the TPM at {path} cannot be opened", action="Run in an Azure confidential VM, with access to its TPM."
            ) from error

    @override
    def transact(self, command: bytes) -> bytes:
        """Send one command (see `TpmChannel`)."""
        try:
            self._file.write(command)
            return self._file.read(_RESPONSE_BYTES)
        except OSError as error:
            raise UnavailableError("the TPM does not answer", action="Check the TPM device of this VM.") from error

    def close(self) -> None:
        """Close the device; what this process created in the TPM is gone then."""
        self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """What a TPM attests, and its key's signature over it (RSASSA-PKCS1-v1_5 with SHA-256)."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransientKey:
    """A key in the TPM's memory; the caller MUST flush it.

    Attributes:
        handle: Its handle.
        public: TPM2B_PUBLIC.
    """

    handle: int
    public: bytes


class Tpm:
    """A TPM's commands.

    Every command raises `UnavailableError` if the TPM refuses it or does not answer, `NotFoundError` if there is no
    such key or index, and `FormatError` if the response is not what the standard says.

    Args:
        channel: The way to the TPM.
    """

    def __init__(self, channel: TpmChannel) -> None:
        self._channel = channel

    def handles(self, kind: str) -> tuple[int, ...]:
        """Return the handles of a kind: "nv", "transient" or "persistent" (TPM2_GetCapability)."""
        parameters = struct.pack(">III", _CAP_HANDLES, HANDLE_TYPES[kind], _MAX_HANDLES)
        reader = self.execute(_GET_CAPABILITY, parameters=parameters)
        reader.take(1)  # whether there are more
        if reader.big_endian(4) != _CAP_HANDLES:
            raise FormatError("the TPM answered another question")
        count = reader.big_endian(4)
        return tuple(reader.big_endian(4) for _ in range(min(count, _MAX_HANDLES)))

    def nv_size(self, index: int) -> int:
        """Return the size of an NV index in bytes (TPM2_NV_ReadPublic)."""
        reader = ByteReader(sized(self.execute(_NV_READ_PUBLIC, handles=(index,))), what="the NV index's public area")
        reader.take(4 + 2 + 4)  # index, name algorithm, attributes
        sized(reader)  # policy
        return reader.big_endian(2)

    def nv_read(self, index: int) -> bytes:
        """Return the content of an NV index that the owner may read (TPM2_NV_Read)."""
        size = self.nv_size(index)
        content = bytearray()
        while len(content) < size:
            wanted = min(_NV_CHUNK_BYTES, size - len(content))
            parameters = struct.pack(">HH", wanted, len(content))
            chunk = sized(self.execute(_NV_READ, handles=(_RH_OWNER, index), passwords=1, parameters=parameters))
            if len(chunk) != wanted:
                raise FormatError("the TPM returned another part of its NV index than it was asked for")
            content += chunk
        return bytes(content)

    def nv_write(self, index: int, content: bytes) -> None:
        """Write an NV index, and define it (anew) where it is absent or has another size."""
        try:
            if self.nv_size(index) != len(content):
                self.execute(_NV_UNDEFINE_SPACE, handles=(_RH_OWNER, index), passwords=1)
                self._nv_define(index, len(content))
        except NotFoundError:
            self._nv_define(index, len(content))
        for start in range(0, len(content), _NV_CHUNK_BYTES):
            parameters = _sized(content[start : start + _NV_CHUNK_BYTES]) + struct.pack(">H", start)
            self.execute(_NV_WRITE, handles=(_RH_OWNER, index), passwords=1, parameters=parameters)

    def read_public(self, handle: int) -> bytes:
        """Return a key's TPM2B_PUBLIC (TPM2_ReadPublic)."""
        return _sized(sized(self.execute(_READ_PUBLIC, handles=(handle,))))

    def pcr_values(self, pcrs: Sequence[int]) -> dict[int, bytes]:
        """Return values of registers of the SHA-256 bank by number (TPM2_PCR_Read)."""
        values: dict[int, bytes] = {}
        missing = sorted(set(pcrs))
        while missing:
            reader = self.execute(_PCR_READ, parameters=select(missing[:_PCRS_A_READ]))
            reader.take(4)  # how often registers changed
            read = _selected(reader)
            digests = [sized(reader) for _ in range(min(reader.big_endian(4), _PCRS_A_READ))]
            if not read or len(read) != len(digests) or not set(read) <= set(missing):
                raise FormatError("the TPM has no such registers in its SHA-256 bank")
            values |= dict(zip(read, digests, strict=True))
            missing = [pcr for pcr in missing if pcr not in values]
        return {pcr: values[pcr] for pcr in sorted(values)}

    def quote(self, key: int, *, pcrs: Sequence[int], nonce: bytes) -> Attested:
        """Have a key sign registers of the SHA-256 bank, and a nonce of at most 64 bytes (TPM2_Quote)."""
        parameters = _sized(nonce) + struct.pack(">H", ALG_NULL) + select(pcrs)
        return _attested(self.execute(_QUOTE, handles=(key,), passwords=1, parameters=parameters))

    def certify(self, subject: int, *, key: int, nonce: bytes) -> Attested:
        """Have a key sign another key's name, and a nonce of at most 64 bytes (TPM2_Certify)."""
        parameters = _sized(nonce) + struct.pack(">H", ALG_NULL)
        return _attested(self.execute(_CERTIFY, handles=(subject, key), passwords=2, parameters=parameters))

    def create_decryption_key(self, *, policy: bytes) -> TransientKey:
        """Make the RSA key of this boot that works under a policy only (TPM2_CreatePrimary, null hierarchy).

        It is the same key for the same policy until the TPM is reset.

        Args:
            policy: Digest of the policy, 32 bytes.

        Source: Azure guest attestation client library, `Tss2Util.cpp` (`PopulateEphemeralKeyPublicTemplate`).
        """
        attributes = DECRYPT | FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | NO_DA
        area = b"".join(
            (
                struct.pack(">HHI", ALG_RSA, ALG_SHA256, attributes),
                _sized(policy),
                struct.pack(">HHHI", ALG_NULL, ALG_NULL, _RSA_BITS, 0),
                _sized(bytes(_RSA_BITS // 8)),
            )
        )
        no_secret, no_outside_info, no_registers = _sized(bytes(4)), _sized(b""), bytes(4)
        parameters = no_secret + _sized(area) + no_outside_info + no_registers
        handle, reader = self._execute_with_handle(
            _CREATE_PRIMARY, handles=(_RH_NULL,), passwords=1, parameters=parameters
        )
        return TransientKey(handle=handle, public=_sized(sized(reader)))

    def rsa_decrypt(self, key: int, ciphertext: bytes, *, pcrs: Sequence[int]) -> SecretBytes:
        """Decrypt RSAES-PKCS1-v1_5 with a key whose policy is the present value of registers (TPM2_RSA_Decrypt).

        Args:
            key: The key's handle.
            ciphertext: As long as the key's modulus.
            pcrs: The registers of its policy.
        """
        session = self._policy_session()
        try:
            policy = _sized(b"") + select(pcrs)  # no digest: the present values
            self.execute(CC_POLICY_PCR, handles=(session,), parameters=policy)
            parameters = _sized(ciphertext) + struct.pack(">H", ALG_RSAES) + _sized(b"")  # no label
            reader = self.execute(_RSA_DECRYPT, handles=(key,), sessions=(session,), parameters=parameters)
            return SecretBytes(sized(reader))
        finally:
            self.flush(session)

    def flush(self, handle: int) -> None:
        """Remove a transient key or a session from the TPM's memory (TPM2_FlushContext)."""
        self.execute(_FLUSH_CONTEXT, parameters=handle.to_bytes(4, "big"))

    def execute(
        self,
        code: int,
        *,
        handles: Sequence[int] = (),
        passwords: int = 0,
        sessions: Sequence[int] = (),
        parameters: bytes = b"",
    ) -> ByteReader:
        """Send a command that returns no handle.

        Args:
            code: TPM_CC_….
            handles: The handle area.
            passwords: How many empty passwords the command needs.
            sessions: Policy sessions, behind the passwords; they stay open.
            parameters: The parameter area.

        Returns:
            The response's parameters.
        """
        sessions = (_RS_PW,) * passwords + tuple(sessions)
        reader = self._send(code, handles, sessions, parameters)
        return _parameters(reader) if sessions else reader

    def _execute_with_handle(
        self, code: int, *, handles: Sequence[int], passwords: int = 0, parameters: bytes
    ) -> tuple[int, ByteReader]:
        sessions = (_RS_PW,) * passwords
        reader = self._send(code, handles, sessions, parameters)
        handle = reader.big_endian(4)
        return handle, _parameters(reader) if sessions else reader

    def _send(self, code: int, handles: Sequence[int], sessions: Sequence[int], parameters: bytes) -> ByteReader:
        authorizations = b"".join(_authorization(session) for session in sessions)
        body = b"".join(
            (
                *(handle.to_bytes(4, "big") for handle in handles),
                len(authorizations).to_bytes(4, "big") + authorizations if sessions else b"",
                parameters,
            )
        )
        tag = _ST_SESSIONS if sessions else _ST_NO_SESSIONS
        command = _HEADER.pack(tag, _HEADER.size + len(body), code) + body
        for _ in range(_TRIES):
            response = self._channel.transact(command)
            reader = ByteReader(response, what="the TPM's response")
            _tag, size, result = _HEADER.unpack(reader.take(_HEADER.size))
            if size != len(response):
                raise FormatError("the TPM's response has another size than it says")
            if result not in _BUSY:
                break
        else:
            raise UnavailableError("the TPM is busy", action="Try again later.")
        if result in _HANDLE_CODES:
            raise NotFoundError(
                "the TPM has no such key or index", action="Check that this is an Azure confidential VM."
            )
        if result != 0:
            raise UnavailableError(
                f"the TPM refuses command {code:#x} with code {result:#x}",
                action="Look the code up in TPM 2.0, Part 2.",
            )
        return reader

    def _nv_define(self, index: int, size_bytes: int) -> None:
        public = struct.pack(">IHIHH", index, ALG_SHA256, _NV_ATTRIBUTES, 0, size_bytes)
        no_password = _sized(b"")
        self.execute(_NV_DEFINE_SPACE, handles=(_RH_OWNER,), passwords=1, parameters=no_password + _sized(public))

    def _policy_session(self) -> int:
        parameters = b"".join(
            (
                _sized(random_bytes(_NONCE_BYTES)),
                _sized(b""),  # no salt
                struct.pack(">BHH", _SE_POLICY, ALG_NULL, ALG_SHA256),
            )
        )
        handle, _nonce = self._execute_with_handle(
            _START_AUTH_SESSION, handles=(_RH_NULL, _RH_NULL), parameters=parameters
        )
        return handle


def _authorization(session: int) -> bytes:
    """Return TPMS_AUTH_COMMAND: no nonce, the session stays open, no HMAC."""
    return struct.pack(">IHBH", session, 0, 1, 0)


def _parameters(reader: ByteReader) -> ByteReader:
    """Return the parameters of a response with sessions; the sessions' part behind them says nothing here."""
    return ByteReader(reader.take(reader.big_endian(4)), what="the TPM's response")


def _attested(reader: ByteReader) -> Attested:
    attest = sized(reader)
    if reader.big_endian(2) != ALG_RSASSA or reader.big_endian(2) != ALG_SHA256:
        raise FormatError("the TPM's attestation key signs with another scheme than RSASSA with SHA-256")
    return Attested(attest=attest, signature=sized(reader))


def _selected(reader: ByteReader) -> list[int]:
    """Read a TPML_PCR_SELECTION of the SHA-256 bank."""
    if reader.big_endian(4) != 1 or reader.big_endian(2) != ALG_SHA256 or reader.big_endian(1) != SELECTED_BYTES:
        raise FormatError("the TPM read other registers than those of its SHA-256 bank")
    bits = int.from_bytes(reader.take(SELECTED_BYTES), "little")
    return [pcr for pcr in range(REGISTERS) if bits >> pcr & 1]


def _sized(data: bytes) -> bytes:
    """Return a TPM2B: bytes behind their length."""
    return len(data).to_bytes(2, "big") + data
