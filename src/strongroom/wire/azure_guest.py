"""What guests of Azure's confidential VMs exchange with an attestation service.

`AttestationInfo` and `SealedToken` are Azure's own (`POST /attest/AzureGuest`), named as Azure's client names them.
`AzureVmRequest` is ours (`POST /strongroom/v1/attest/AzureVm`).

Source: Azure guest attestation client library (`AttestationLibConst.h`, `AttestationParameters.cpp`, `TpmInfo.cpp`,
`IsolationInfo.cpp`, `TpmUnseal.cpp`).
"""

from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from strongroom.wire.model import B64Url, Hex32, Message

RUNTIME_DATA: Final = "runtime-data"
"""Our client's entry in the client payload: the runtime data, whose SHA-256 the vTPM attests."""

_Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/_-]*={0,2}\Z", max_length=96 << 10)]
_LogBase64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/_-]*={0,2}\Z", max_length=(4 << 20) // 3 + 4)]
_Register = Annotated[int, Field(ge=0, le=23)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class PcrValue(Message):
    """The value of one register of the SHA-256 bank."""

    Index: _Register
    Digest: _Base64


class GuestTpmInfo(Message):
    """What the vTPM says.

    Attributes:
        AikCert: Certificate of the attestation key, DER; may be empty.
        AikPub: TPM2B_PUBLIC of the attestation key.
        PcrQuote: TPMS_ATTEST of TPM2_Quote.
        PcrSignature: The attestation key's signature over it, RSASSA-PKCS1-v1_5 with SHA-256.
        EncKeyPub: TPM2B_PUBLIC of the ephemeral key, to which the answer is sealed.
        EncKeyCertifyInfo: TPMS_ATTEST of TPM2_Certify over that key.
        EncKeyCertifyInfoSignature: The attestation key's signature over it.
        PcrSet: Numbers of the quoted registers.
        PCRs: Their values.
    """

    AikCert: _Base64
    AikPub: _Base64
    PcrQuote: _Base64
    PcrSignature: _Base64
    EncKeyPub: _Base64
    EncKeyCertifyInfo: _Base64
    EncKeyCertifyInfoSignature: _Base64
    PcrSet: tuple[_Register, ...] = Field(min_length=1, max_length=24)
    PCRs: tuple[PcrValue, ...] = Field(min_length=1, max_length=24)


class IsolationEvidence(Message):
    """What the hardware says.

    Attributes:
        Proof: SEV-SNP: JSON with SnpReport and VcekCertChain; TDX: the quote.
        RunTimeData: The paravisor's document, for which the report data stands.
    """

    Proof: _Base64
    RunTimeData: _Base64


class GuestIsolationInfo(Message):
    """Which hardware isolates the VM; "TrustedLaunch" is none."""

    Type: Literal["TrustedLaunch", "SevSnp", "Tdx"]
    Evidence: IsolationEvidence | None = None


class SnpProof(Message):
    """SEV-SNP's evidence: the report, and PEM of VCEK, ASK and ARK."""

    SnpReport: _Base64
    VcekCertChain: _Base64


class AttestationInfo(Message):
    """What a guest sends.

    Attributes:
        AttestationProtocolVersion: "2.0".
        OSType: "Linux" or "Windows", in base64, like the next two.
        OSDistro: The distribution.
        OSBuild: Of Windows.
        OSVersionMajor: Of the distribution.
        OSVersionMinor: Of the distribution.
        TcgLogs: The firmware's event log; may be empty.
        ClientPayload: What the caller wants to see in the result: names, and values in base64.
        TpmInfo: What the vTPM says.
        IsolationInfo: What the hardware says.
    """

    AttestationProtocolVersion: Literal["2.0"]
    OSType: _Base64
    OSDistro: _Base64
    OSBuild: _Base64
    OSVersionMajor: int = Field(ge=0, le=0xFFFFFFFF)
    OSVersionMinor: int = Field(ge=0, le=0xFFFFFFFF)
    TcgLogs: _LogBase64
    ClientPayload: dict[_Name, _Base64] | None = Field(default=None, max_length=32)
    TpmInfo: GuestTpmInfo
    IsolationInfo: GuestIsolationInfo


class GuestEncryptionParams(Message):
    """How the token is encrypted. There is no padding with GCM; the name stands there because Azure's client asks."""

    Iv: _Base64
    Cipher: Literal["AES"] = "AES"
    BlockMode: Literal["ChainingModeGCM"] = "ChainingModeGCM"
    BlockPadding: Literal["PKCS7"] = "PKCS7"
    KeySizeInBits: Literal[256] = 256


class SealedToken(Message):
    """An attestation result that only the guest's vTPM opens.

    Attributes:
        EncryptedInnerKey: An AES key, under the ephemeral key.
        EncryptionParams: How the token is encrypted under the AES key.
        AuthenticationData: GCM's tag.
        Jwt: The token's ciphertext.
    """

    EncryptedInnerKey: _Base64
    EncryptionParams: GuestEncryptionParams
    AuthenticationData: _Base64
    Jwt: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/_-]*={0,2}\Z", max_length=1 << 20)]


class AzureVmRequest(Message):
    """Body of `POST /strongroom/v1/attest/AzureVm`.

    Attributes:
        hcl_report: The vTPM's NV index 0x01400001.
        td_quote: On TDX the quote of the hardware's report.
        certificates: On SEV-SNP PEM text of VCEK, ASK and ARK.
        tpm_quote: TPMS_ATTEST of TPM2_Quote, whose nonce is SHA-256 of the runtime data.
        tpm_signature: The attestation key's signature over it.
        pcrs: Values of the quoted registers by number, hexadecimal.
        runtime_data: The exact bytes of a JSON object.
    """

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)

    hcl_report: B64Url
    td_quote: B64Url | None = None
    certificates: str | None = None
    tpm_quote: B64Url
    tpm_signature: B64Url
    pcrs: dict[Annotated[str, StringConstraints(pattern=r"^(1?[0-9]|2[0-3])\Z")], Hex32] = Field(min_length=1)
    runtime_data: B64Url
