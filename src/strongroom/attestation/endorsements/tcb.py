"""The two signed documents among the endorsements: TCB info (version 3) and QE identity (version 2).

Source: Intel SGX Provisioning Certification Service API, version 4 ("Get TCB Info", "Get Quoting Enclave Identity").
"""

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import FormatError
from strongroom.wire.model import Message, Timestamp

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
]
_Svn = Annotated[int, Field(ge=0, le=0xFFFF)]
_Hex2 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{4}\Z")]
_Hex4 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{8}\Z")]
_Hex6 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{12}\Z")]
_Hex8 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{16}\Z")]
_Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{32}\Z")]
_Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{64}\Z")]
_Hex48 = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f]{96}\Z")]


class TcbComponent(Message):
    """One of the 16 parts of the processor's TCB."""

    svn: Annotated[int, Field(ge=0, le=0xFF)]
    category: str | None = None
    type: str | None = None


class PlatformTcb(Message):
    """The least versions of a TCB level."""

    sgxtcbcomponents: Annotated[list[TcbComponent], Field(min_length=16, max_length=16)]
    pcesvn: _Svn
    tdxtcbcomponents: Annotated[list[TcbComponent], Field(min_length=16, max_length=16)] | None = None


class QeTcb(Message):
    """The least version of a quoting enclave's level."""

    isvsvn: _Svn


class TcbLevel(Message):
    """What the vendor says about platforms at or above these versions."""

    tcb: PlatformTcb
    tcb_date: Timestamp = Field(alias="tcbDate")
    tcb_status: TcbStatus = Field(alias="tcbStatus")
    advisory_ids: list[str] = Field(default_factory=list, alias="advisoryIDs")


class QeLevel(Message):
    """What the vendor says about quoting enclaves at or above this version."""

    tcb: QeTcb
    tcb_date: Timestamp = Field(alias="tcbDate")
    tcb_status: TcbStatus = Field(alias="tcbStatus")
    advisory_ids: list[str] = Field(default_factory=list, alias="advisoryIDs")


class TdxModule(Message):
    """What the first TDX module (version 0) looks like."""

    mrsigner: _Hex48
    attributes: _Hex8
    attributes_mask: _Hex8 = Field(alias="attributesMask")


class TdxModuleIdentity(TdxModule):
    """What a TDX module of one version looks like, and its TCB levels.

    Attributes:
        id: "TDX_" and the module's major version in two hexadecimal digits.
    """

    id: Annotated[str, StringConstraints(pattern=r"^TDX_[0-9A-Fa-f]{2}\Z")]
    tcb_levels: Annotated[list[QeLevel], Field(min_length=1)] = Field(alias="tcbLevels")


class TcbInfo(Message):
    """TCB levels of a platform family, best first."""

    id: Literal["SGX", "TDX"]
    version: Literal[3]
    issue_date: Timestamp = Field(alias="issueDate")
    next_update: Timestamp = Field(alias="nextUpdate")
    fmspc: _Hex6
    pce_id: _Hex2 = Field(alias="pceId")
    tcb_type: Literal[0] = Field(alias="tcbType")
    tcb_evaluation_data_number: int = Field(ge=0, alias="tcbEvaluationDataNumber")
    tdx_module: TdxModule | None = Field(default=None, alias="tdxModule")
    tdx_module_identities: list[TdxModuleIdentity] = Field(default_factory=list, alias="tdxModuleIdentities")
    tcb_levels: Annotated[list[TcbLevel], Field(min_length=1)] = Field(alias="tcbLevels")


class QeIdentity(Message):
    """What a genuine quoting enclave looks like: that of SGX ("QE") or that of TDX ("TD_QE")."""

    id: Literal["QE", "TD_QE"]
    version: Literal[2]
    issue_date: Timestamp = Field(alias="issueDate")
    next_update: Timestamp = Field(alias="nextUpdate")
    tcb_evaluation_data_number: int = Field(ge=0, alias="tcbEvaluationDataNumber")
    miscselect: _Hex4
    miscselect_mask: _Hex4 = Field(alias="miscselectMask")
    attributes: _Hex16
    attributes_mask: _Hex16 = Field(alias="attributesMask")
    mrsigner: _Hex32
    isvprodid: Annotated[int, Field(ge=0, le=0xFFFF)]
    tcb_levels: Annotated[list[QeLevel], Field(min_length=1)] = Field(alias="tcbLevels")


_Document = TypeVar("_Document", bound=BaseModel)


def parse_tcb_info(text: str) -> TcbInfo:
    """Read a TCB info document; its signature is another matter.

    Raises:
        FormatError: Not a TCB info of version 3, or with unknown fields.
    """
    return _parse(TcbInfo, text, "TCB info")


def parse_qe_identity(text: str) -> QeIdentity:
    """Read a QE identity document; its signature is another matter.

    Raises:
        FormatError: Not a QE identity of version 2, or with unknown fields.
    """
    return _parse(QeIdentity, text, "QE identity")


def _parse(kind: type[_Document], text: str, what: str) -> _Document:
    try:
        return kind.model_validate(parse_json_object(text))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors()[:5])
        raise FormatError(f"the {what} is not such a document: {fields}") from error
