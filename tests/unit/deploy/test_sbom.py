import json
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from deploy.images import sbom

DIGEST = "sha256:" + "ab" * 32


def components(folder: Path) -> list[sbom.Component]:
    for name, artifacts in {
        "known-1.2.jar": ["known"],
        "renamed.jar": ["known-too"],
        "shaded-1.2.jar": ["known", "shaded"],
        "plain-3.4-SNAPSHOT.jar": [],
        "odd.jar": ["one", "two"],
    }.items():
        with zipfile.ZipFile(folder / name, "w") as jar:
            jar.writestr(zipfile.ZipInfo("A.class"), b"")  # of no particular day
            for artifact in artifacts:
                properties = f"#Made today\ngroupId=org.example\nartifactId={artifact}\nversion=1.2\n"
                jar.writestr(zipfile.ZipInfo(f"META-INF/maven/org.example/{artifact}/pom.properties"), properties)
    return [
        sbom.debian_component(
            name="libstdc++6",
            version="12.2.0-14+deb12u1",
            architecture="amd64",
            suite="bookworm",
            sha256="00" * 32,
            licences=["GPL-3+", "GPL-3+ with GCC-Runtime-3.1 exception"],
        ),
        sbom.debian_component(
            name="tar", version="1:1.34", architecture="amd64", suite="bookworm", sha256="01" * 32, licences=[]
        ),
        sbom.python_component(
            name="Typing_Extensions", version="4.16.0", sha256="02" * 32, licence="not said", expression="PSF-2.0"
        ),
        sbom.python_component(name="lark", version="1", sha256=None, licence="MIT License", expression=None),
        *sbom.jar_components(folder),
    ]


def document(folder: Path) -> bytes:
    return sbom.document(
        name="localhost/strongroom-spark",
        version="1.0",
        digest=DIGEST,
        components=components(folder),
        properties={"files": "00"},
    )


def test_the_document_is_valid_by_the_published_schema(tmp_path: Path) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)

    assert validator.validate_str(document(tmp_path).decode()) is None
    assert validator.validate_str(document(tmp_path).decode().replace('"library"', '"librarian"')) is not None


def test_the_document_of_an_image_is_always_the_same(tmp_path: Path) -> None:
    assert document(tmp_path) == document(tmp_path)


def test_each_part_has_version_digest_and_package_url(tmp_path: Path) -> None:
    value = json.loads(document(tmp_path))
    parts = {each["name"]: each for each in value["components"]}

    assert {name: part.get("purl") for name, part in parts.items()} == {
        "libstdc++6": "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=bookworm",
        "tar": "pkg:deb/debian/tar@1%3A1.34?arch=amd64&distro=bookworm",
        "Typing_Extensions": "pkg:pypi/typing-extensions@4.16.0",
        "lark": "pkg:pypi/lark@1",
        "known": "pkg:maven/org.example/known@1.2",
        "known-too": "pkg:maven/org.example/known-too@1.2",
        "shaded": "pkg:maven/org.example/shaded@1.2",
        "plain": None,
        "odd": None,
    }
    assert parts["plain"]["version"] == "3.4-SNAPSHOT"
    assert {name for name, part in parts.items() if "hashes" not in part} == {"lark"}
    assert value["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert sorted(value["dependencies"][0]["dependsOn"]) == sorted(each["bom-ref"] for each in value["components"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("libstdc++6", [{"id": "GPL-3.0-or-later"}, {"name": "GPL-3+ with GCC-Runtime-3.1 exception"}]),
        ("tar", [{"name": "see /usr/share/doc/tar/copyright"}]),
        ("lark", [{"id": "MIT"}]),
    ],
)
def test_licences_have_the_names_of_spdx_where_they_are_known(
    tmp_path: Path, name: str, expected: list[dict[str, str]]
) -> None:
    (part,) = [each for each in components(tmp_path) if each.name == name]

    assert [each["license"] for each in part.to_json()["licenses"]] == expected


def test_an_expression_stands_for_all_licences(tmp_path: Path) -> None:
    (part,) = [each for each in components(tmp_path) if each.name == "Typing_Extensions"]

    assert part.to_json()["licenses"] == [{"expression": "PSF-2.0"}]
