"""Initdata: the document that fixes at a pod's launch what its measured guest components do, and for which application.

Its hash stands where an application digest stands otherwise: MRCONFIGID (TDX), HOST_DATA (SEV-SNP). One entry is ours:

    "strongroom.json"   {"version":1,"application":"64 hexadecimal digits"}

Everything else in it, the Kata agent's policy first of all, decides what may run in the pod. So an application digest
in initdata says nothing unless the rest of the document is known: `Initdata.configuration` names the rest. Of this rest
the image changes most often. A policy that starts exactly one image may say which in a line of its own,

    strongroom_image := "registry.example/strongroom/spark@sha256:64 hexadecimal digits"

and then the rest is also named by two values: `Initdata.template`, which leaves that line open, and `Initdata.image`.

Of TOML exactly one spelling is read here, so that a reader needs no TOML parser and nothing is read in two ways: two
lines `version = "0.1.0"` and `algorithm = "…"`, an empty line, `[data]`, and entries whose values are multi-line
literal strings, each beginning behind a line break. `render_initdata` writes it; a TOML parser reads the same in it.

Source: Confidential Containers, "Initdata Specification"; Kata Containers, `kata-types`, `initdata.rs`.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import FormatError, LimitError, Mismatch, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.wire.model import Hex32, Message, VirtualTeeKind

InitdataAlgorithm: TypeAlias = Literal["sha256", "sha384", "sha512"]

OUR_ENTRY: Final = "strongroom.json"
POLICY_ENTRY: Final = "policy.rego"
MAX_ENTRIES: Final = 32
_VERSION: Final = "0.1.0"
ALGORITHMS: Final[tuple[InitdataAlgorithm, ...]] = ("sha256", "sha384", "sha512")
_FIELD_BYTES: Final[Mapping[VirtualTeeKind, int]] = {"tdx": 48, "snp": 32}
_DATA: Final = "\n\n[data]\n"
_QUOTES: Final = "'''"
_ENTRY: Final = re.compile(r'\n*"([A-Za-z0-9][A-Za-z0-9._-]{0,63})" = \'\'\'\n')
_NOT_LITERAL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
"""What no literal string of TOML holds, and carriage returns, which parsers may drop."""
_IMAGE_LINE: Final = re.compile(r"^strongroom_image\b.*$", re.MULTILINE)
_IMAGE: Final = re.compile(r'strongroom_image := "[a-z0-9][a-z0-9._:/-]{0,254}@(sha256:[0-9a-f]{64})"')
_NO_IMAGE: Final = 'strongroom_image := ""'


class LaunchEntry(Message):
    """Our entry: which application the TEE was launched for."""

    version: Literal[1] = 1
    application: Hex32


@dataclass(frozen=True, slots=True, kw_only=True)
class Initdata:
    """What a document says. It is a claim until its hash was compared with verified evidence (`verify_initdata`).

    Attributes:
        algorithm: How the document is hashed.
        entries: Its data, by name; the text of each.
        application: The application digest of our entry.
        configuration: SHA-256, hexadecimal, of everything but our entry: the image too, where the policy names it.
        template: The same with the image left open; None where the policy has no line for it. It trusts every image.
        image: The image in that line.
    """

    algorithm: InitdataAlgorithm
    entries: Mapping[str, str]
    application: str
    configuration: str
    template: str | None
    image: str | None


def parse_initdata(document: bytes) -> Initdata:
    """Read initdata.

    Args:
        document: The exact bytes.

    Raises:
        FormatError: Not initdata in its one spelling, or without exactly one application; a line about the image that
            is not of the form above, or several.
        LimitError: It is larger than `LIMITS.initdata_bytes`, or has more entries than `MAX_ENTRIES`.
    """
    if len(document) > LIMITS.initdata_bytes:
        raise LimitError("the initdata is larger than allowed")
    try:
        text = document.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("the initdata is not UTF-8 text") from error
    if _NOT_LITERAL.search(text):
        raise FormatError("the initdata has a character that it cannot have")
    head, found, data = text.partition(_DATA)
    algorithm = _algorithm(head)
    if not found or algorithm is None:
        raise FormatError("the initdata does not begin with version, algorithm and [data]")
    entries = _entries(data)
    if OUR_ENTRY not in entries:
        raise FormatError(f"the initdata has no {OUR_ENTRY}")
    rest = {name: value for name, value in entries.items() if name != OUR_ENTRY}
    found_image = _image(entries.get(POLICY_ENTRY, ""))
    image, policy = found_image or (None, "")
    return Initdata(
        algorithm=algorithm,
        entries=entries,
        application=LaunchEntry.from_json(entries[OUR_ENTRY]).application,
        configuration=_digest(algorithm, rest),
        template=_digest(algorithm, {**rest, POLICY_ENTRY: policy}) if found_image else None,
        image=image,
    )


def render_initdata(entries: Mapping[str, str], *, application: str, algorithm: InitdataAlgorithm = "sha256") -> bytes:
    """Return initdata for an application.

    Args:
        entries: What is beside our entry: the Kata agent's policy (`policy.rego`) and other components' files.
        application: The application digest, hexadecimal.
        algorithm: How it is hashed at launch.

    Raises:
        FormatError: A name or a value that this spelling cannot hold, or what `parse_initdata` would refuse.
        LimitError: It is too large.
    """
    if OUR_ENTRY in entries:
        raise FormatError(f"{OUR_ENTRY} is written for the application, and is no other entry")
    ours = LaunchEntry.from_object({"version": 1, "application": application}).to_json().decode("ascii") + "\n"
    parts = [f'version = "{_VERSION}"\nalgorithm = "{algorithm}"{_DATA}']
    parts += [f'"{name}" = {_QUOTES}\n{value}{_QUOTES}\n' for name, value in {OUR_ENTRY: ours, **entries}.items()]
    document = "".join(parts).encode("utf-8", "surrogatepass")
    if parse_initdata(document).entries != {OUR_ENTRY: ours, **entries}:
        raise FormatError("an entry cannot be written as a literal string of initdata")
    return document


def launch_value_of(document: bytes, *, kind: VirtualTeeKind, algorithm: InitdataAlgorithm) -> bytes:
    """Return what the host writes into the field that is fixed at launch: the hash, cut off or filled up with zeros.

    Source: Confidential Containers, "Initdata Specification", integrity binding.
    """
    size = _FIELD_BYTES[kind]
    return hashlib.new(algorithm, document).digest()[:size].ljust(size, b"\0")


def verify_initdata(document: bytes, *, kind: VirtualTeeKind, launched_with: bytes) -> Initdata:
    """Read initdata, and check that a TEE was launched with it.

    The caller MUST have verified the evidence, and MUST compare `configuration`, or `template` and `image`, with what
    is trusted: without that, the application digest in it says nothing.

    Args:
        document: The exact bytes.
        kind: The kind of TEE.
        launched_with: What verified evidence has in MRCONFIGID or HOST_DATA.

    Raises:
        FormatError: Not initdata.
        LimitError: It is too large.
        VerificationError: The TEE was launched with another document, or with none.
    """
    initdata = parse_initdata(document)
    expected = launch_value_of(document, kind=kind, algorithm=initdata.algorithm)
    if launched_with != expected:
        raise VerificationError(
            "the evidence was not launched with this initdata",
            mismatches=(Mismatch(name="initdata", expected=expected.hex(), actual=launched_with.hex()),),
        )
    return initdata


def _algorithm(head: str) -> InitdataAlgorithm | None:
    """Return the algorithm that the two lines before the data name; None where they are others."""
    version = f'version = "{_VERSION}"'
    for algorithm in ALGORITHMS:
        named = f'algorithm = "{algorithm}"'
        if head in (f"{version}\n{named}", f"{named}\n{version}"):
            return algorithm
    return None


def _entries(data: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    position = 0
    while data[position:].strip("\n"):
        start = _ENTRY.match(data, position)
        end = data.find(_QUOTES, start.end()) if start is not None else -1
        if start is None or end < 0 or data[end + len(_QUOTES) : end + len(_QUOTES) + 1] not in ("", "\n"):
            raise FormatError("an entry of the initdata is not a name and a multi-line literal string")
        name = start[1]
        if name in entries:
            raise FormatError(f"the initdata has two entries {name}")
        entries[name] = data[start.end() : end]
        if len(entries) > MAX_ENTRIES:
            raise LimitError("the initdata has more entries than allowed")
        position = end + len(_QUOTES)
    return entries


def _digest(algorithm: InitdataAlgorithm, data: Mapping[str, str]) -> str:
    said: Json = {"version": _VERSION, "algorithm": algorithm, "data": data}
    return hashlib.sha256(canonical_json(said)).hexdigest()


def _image(policy: str) -> tuple[str, str] | None:
    """Return the image that a policy names, and the policy without it; None where it has no line for it.

    Raises:
        FormatError: It speaks of the image otherwise than in one line of the one form.
    """
    lines = _IMAGE_LINE.findall(policy)
    if not lines:
        return None
    found = _IMAGE.fullmatch(lines[0])
    if len(lines) > 1 or found is None:
        raise FormatError("the policy in the initdata does not name its image in one line, by its digest")
    return found[1], _IMAGE_LINE.sub(_NO_IMAGE, policy)
