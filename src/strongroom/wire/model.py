"""The base of every message: frozen, strict, unknown fields refused, canonical on the way out."""

import functools
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import FormatError


@functools.lru_cache(maxsize=1024)
def _a_moment(text: str) -> str:
    datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)  # ValueError: no such day or hour
    return text


Hex16 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}\Z")]
"""16 bytes as lower-case hexadecimal text: run ids, write ids, file ids."""
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}\Z")]
"""32 bytes as lower-case hexadecimal text: SHA-256 digests, key thumbprints, service identities."""
Hex48 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{96}\Z")]
"""48 bytes as lower-case hexadecimal text: measurements of TDX and SEV-SNP."""
B64Url = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]*\Z")]
"""Unpadded base64url text."""
Timestamp = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z"),
    AfterValidator(_a_moment),
]
"""RFC 3339 time in UTC, whole seconds. Compares like the time it names."""
DatasetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
"""Lower-case letters, digits and inner hyphens; also a valid URI authority."""
ColumnName = Annotated[str, StringConstraints(pattern=r"^[^\W\d][\w-]{0,62}\Z")]
"""A top-level column with a key of its own: a letter or underscore, then letters, digits, underscores, hyphens."""
RelativePath = Annotated[
    str, StringConstraints(pattern=r"^(?!.*(^|/)\.{1,2}(/|$))[^/\x00-\x1f\\][^\x00-\x1f\\]*\Z", max_length=1024)
]
"""A path below a folder: no leading slash, no dot segments, no control characters."""
Url = Annotated[str, StringConstraints(pattern=r"^https://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9./_\-]*)?\Z")]
"""An https address without user, query or fragment."""
OriginUrl = Annotated[str, StringConstraints(pattern=r"^https://[a-z0-9.\-]+(:[0-9]{1,5})?\Z", max_length=300)]
"""An https address of a host and nothing else, in the only spelling that identifiers made from it have."""
CompactJws = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")]
CompactJwe = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*){4}\Z")]

TeeKind: TypeAlias = Literal["sgx", "tdx", "snp"]
"""Whose evidence it is: an SGX enclave's, a TDX trust domain's, an SEV-SNP guest's."""
TEE_KINDS: Final[tuple[TeeKind, ...]] = get_args(TeeKind)
Shape: TypeAlias = Literal["process", "pod", "confidential-node"]
"""Whom a TEE leaves inside with the application, the strongest first. What each means is in `policy.shapes`."""
SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
VirtualTeeKind: TypeAlias = Literal["tdx", "snp"]
"""A kind of TEE that is a virtual machine."""
ImageDigest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}\Z")]
"""A container image, as registries name exactly one: the SHA-256 of its manifest."""


class Message(BaseModel):
    """A message or document with a fixed set of fields."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        hide_input_in_errors=True,
        regex_engine="python-re",
        defer_build=True,  # a command uses few of the messages that its modules name
    )

    def to_json(self) -> bytes:
        """Return the message as canonical JSON (RFC 8785)."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """Read a message from strict JSON.

        Raises:
            FormatError: Not strict JSON, or not such a message; the message names the fields.
        """
        return cls.from_object(parse_json_object(text))

    @classmethod
    def from_object(cls, value: Any) -> Self:  # noqa: ANN401 - parsed JSON is of any type
        """Read a message from parsed JSON.

        Raises:
            FormatError: Not such a message; the message names the fields.
        """
        try:
            # JSON arrays and base types are accepted where tuples and enums stand: strictness is about JSON types.
            return cls.model_validate_json(canonical_json(value))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'message'}: {e['msg']}" for e in error.errors()[:8])
            raise FormatError(f"not a {cls.__name__}: {faults}") from error
