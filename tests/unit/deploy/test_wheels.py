import zipfile
from email.message import Message
from pathlib import Path

import pytest
from deploy.images import wheels

from strongroom.base.errors import ConfigurationError

HASH = "--hash=sha256:" + "0" * 64
LOCK = f"""\
always==1.0 \\
    {HASH} \\
    {HASH.replace("0", "1")}
# a comment
other==2.0 ; python_full_version < '3.12' \\
    {HASH}
other==3.0 ; python_full_version >= '3.12' \\
    {HASH}
elsewhere==4.0 ; sys_platform == 'win32' \\
    {HASH}
machine==5.0 ; platform_machine == 'aarch64' \\
    {HASH}
"""


def test_requirements_are_those_of_the_images_python_and_machine() -> None:
    old = wheels.pinned(LOCK, python="3.11", machine="x86_64")
    new = wheels.pinned(LOCK, python="3.13", machine="aarch64")

    assert [(each.name, each.version) for each in old] == [("always", "1.0"), ("other", "2.0")]
    assert [(each.name, each.version) for each in new] == [("always", "1.0"), ("other", "3.0"), ("machine", "5.0")]
    assert old[0].hashes == ("sha256:" + "0" * 64, "sha256:" + "1" * 64)


@pytest.mark.parametrize("line", ["name==1.0", f"name>=1.0 {HASH}", f"name {HASH}", f"name==1.0 {HASH[:-1]}"])
def test_refuses_what_is_not_pinned_with_a_hash(line: str) -> None:
    with pytest.raises(ConfigurationError, match="not pinned"):
        wheels.pinned(line, python="3.11", machine="x86_64")


@pytest.mark.parametrize("lock", ["image-service.txt", "image-spark.txt"])
def test_the_locks_of_the_images_are_pinned(repo_root: Path, lock: str) -> None:
    text = (repo_root / "requirements" / lock).read_text()

    assert len(wheels.pinned(text, python="3.11", machine="x86_64")) > 10


def test_the_images_have_the_versions_of_the_runtime(repo_root: Path) -> None:
    tried = {
        each.name: each.version
        for each in wheels.pinned((repo_root / "requirements/dev.txt").read_text(), python="3.11", machine="x86_64")
    }
    for lock in ("image-service.txt", "image-spark.txt"):
        for each in wheels.pinned((repo_root / "requirements" / lock).read_text(), python="3.11", machine="x86_64"):
            assert tried[each.name] == each.version, each.name


def test_a_wheel_is_unpacked_without_scripts_headers_and_compiled_modules(tmp_path: Path) -> None:
    wheel = tmp_path / "example-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, mode in {
            "example/__init__.py": 0o644,
            "example/bin/program": 0o755,
            "example/__pycache__/__init__.cpython-311.pyc": 0o644,
            "example-1.dist-info/METADATA": 0o600,
            "example-1.data/scripts/example": 0o755,
            "example-1.data/headers/example.h": 0o644,
            "example-1.data/purelib/more.py": 0o644,
            "example-1.data/data/share/example.jar": 0o644,
        }.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, name)

    wheels.install(wheel, tmp_path / "packages", environment=tmp_path)

    assert (tmp_path / "share/example.jar").is_file()
    modes = {
        str(path.relative_to(tmp_path / "packages")): path.stat().st_mode & 0o7777
        for path in (tmp_path / "packages").rglob("*")
        if path.is_file()
    }
    assert modes == {
        "example/__init__.py": 0o644,
        "example/bin/program": 0o755,
        "example-1.dist-info/METADATA": 0o644,
        "more.py": 0o644,
    }


def test_wheels_for_an_older_glibc_run_too() -> None:
    names = list(wheels.platforms("x86_64"))

    assert names[0] == "manylinux_2_36_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64"} <= set(names)
    assert "manylinux_2_39_x86_64" not in names


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"Classifier": "License :: OSI Approved :: MIT License", "License": "whatever"}, "MIT License"),
        ({"License": "BSD\nwith a long text"}, "BSD"),
        ({"Classifier": "Topic :: Software Development"}, "not said"),
    ],
)
def test_a_licence_is_what_the_metadata_say(fields: dict[str, str], expected: str) -> None:
    metadata = Message()
    for name, value in fields.items():
        metadata[name] = value

    assert wheels.licence(metadata) == expected
