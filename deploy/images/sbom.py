"""What an image is made of, as a CycloneDX document: Debian's packages, Python's, and the jars that Spark brings.

The document of an image is the same each time that the image is: it has no time, and its serial number is made from the
image's digest.

Source: CycloneDX 1.6 (ECMA-424); Package-URL specification, types deb, maven, oci, pypi; SPDX licence list.
"""

import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

_PROPERTIES: Final = re.compile(r"META-INF/maven/[^/]+/[^/]+/pom\.properties")
_JAR: Final = re.compile(r"(?P<name>.+?)-(?P<version>\d[\w.+-]*)\.jar")
_UNKNOWN: Final = "unknown"
_SPDX: Final[Mapping[str, str]] = {
    "Apache-2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD-2-clause": "BSD-2-Clause",
    "BSD-3-clause": "BSD-3-Clause",
    "BSD-4-clause": "BSD-4-Clause",
    "Expat": "MIT",
    "GFDL-1.3": "GFDL-1.3-only",
    "GPL-2": "GPL-2.0-only",
    "GPL-2+": "GPL-2.0-or-later",
    "GPL-3": "GPL-3.0-only",
    "GPL-3+": "GPL-3.0-or-later",
    "ISC": "ISC",
    "LGPL-2.1": "LGPL-2.1-only",
    "LGPL-2.1+": "LGPL-2.1-or-later",
    "LGPL-3+": "LGPL-3.0-or-later",
    "MIT License": "MIT",
    "MPL-2.0": "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""SPDX's identifiers for the names that Debian and Python's classifiers have for licences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A part of an image.

    Attributes:
        group: What a Java artifact's name is unique in.
        purl: Its package URL; None where nobody knows where it is from.
        sha256: The digest of the file that it came in.
        licences: Their names; several ones hold together.
        expression: One SPDX expression in their place.
    """

    name: str
    version: str
    purl: str | None
    sha256: str | None
    group: str | None = None
    licences: tuple[str, ...] = ()
    expression: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the document has it."""
        return {
            "type": "library",
            "bom-ref": self.purl or f"{self.name}@{self.version}",
            **({"group": self.group} if self.group else {}),
            "name": self.name,
            "version": self.version,
            **({"hashes": _hashes(self.sha256)} if self.sha256 else {}),
            **({"licenses": licences} if (licences := self._licences()) else {}),
            **({"purl": self.purl} if self.purl else {}),
        }

    def _licences(self) -> list[dict[str, Any]]:
        if self.expression:
            return [{"expression": self.expression}]
        return [{"license": {"id": _SPDX[each]} if each in _SPDX else {"name": each}} for each in self.licences]


def document(
    *, name: str, version: str, digest: str, components: Iterable[Component], properties: Mapping[str, str]
) -> bytes:
    """Return the document of an image, JSON.

    Args:
        name: The image's name, without tag and digest.
        version: The version of Strongroom in it.
        digest: The image's digest: `sha256:…`.
        components: Its parts; one that is listed twice is one part.
        properties: What else is known of the image, by names of ours.
    """
    parts = {each["bom-ref"]: each for each in (component.to_json() for component in components)}
    purl = f"pkg:oci/{name.rpartition('/')[2]}@{quote(digest, safe='')}"
    value = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": purl,
                "name": name,
                "version": version,
                "hashes": _hashes(digest.removeprefix("sha256:")),
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "purl": purl,
                "properties": [{"name": f"strongroom:{key}", "value": properties[key]} for key in sorted(properties)],
            }
        },
        "components": [parts[key] for key in sorted(parts)],
        "dependencies": [{"ref": purl, "dependsOn": sorted(parts)}],
    }
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def debian_component(
    *, name: str, version: str, architecture: str, suite: str, sha256: str, licences: Sequence[str]
) -> Component:
    """Return a Debian package as a component."""
    query = f"arch={architecture}&distro={suite}"
    return Component(
        name=name,
        version=version,
        purl=f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='~')}?{query}",
        sha256=sha256,
        licences=tuple(licences) or (f"see /usr/share/doc/{name}/copyright",),
    )


def python_component(*, name: str, version: str, sha256: str | None, licence: str, expression: str | None) -> Component:
    """Return a Python package as a component; of its licence the expression counts, where there is one."""
    normal = re.sub(r"[-_.]+", "-", name).lower()
    return Component(
        name=name,
        version=version,
        purl=f"pkg:pypi/{normal}@{quote(version, safe='')}",
        sha256=sha256,
        licences=() if expression else (licence,),
        expression=expression,
    )


def jar_components(folder: Path) -> list[Component]:
    """Return the jars of a folder as components: by their own Maven properties, else by their names."""
    return [_jar(path) for path in sorted(folder.glob("*.jar"))]


def _jar(path: Path) -> Component:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    said = _maven_properties(path)  # what was shaded into a jar has properties in it too
    found = [each for each in said if f"{each.get('artifactId')}-{each.get('version')}.jar" == path.name] or said
    match = _JAR.fullmatch(path.name)
    name, version = (match["name"], match["version"]) if match else (path.stem, _UNKNOWN)
    if len(found) != 1:
        return Component(name=name, version=version, purl=None, sha256=sha256)
    group, artifact, exact = (found[0].get(key, _UNKNOWN) for key in ("groupId", "artifactId", "version"))
    purl = f"pkg:maven/{quote(group, safe='')}/{quote(artifact, safe='')}@{quote(exact, safe='')}"
    return Component(group=group, name=artifact, version=exact, purl=purl, sha256=sha256)


def _maven_properties(path: Path) -> list[dict[str, str]]:
    with zipfile.ZipFile(path) as jar:
        texts = [jar.read(name).decode("utf-8", "replace") for name in jar.namelist() if _PROPERTIES.fullmatch(name)]
    pairs = [[line.partition("=") for line in text.splitlines() if not line.startswith("#")] for text in texts]
    return [{key.strip(): value.strip() for key, _, value in each} for each in pairs]


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]
