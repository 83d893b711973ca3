import io
import tarfile
from pathlib import Path

import pytest
from deploy.images import debian

from strongroom.base.errors import IntegrityError, RefusedError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./bin/tar", "usr/bin/tar"),
        ("./lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
        ("./lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("./usr/bin/python3.11", "usr/bin/python3.11"),
        ("./usr/lib/python3.11/os.py", "usr/lib/python3.11/os.py"),
        ("./usr/lib/python3.11/lib-dynload/_ssl.so", "usr/lib/python3.11/lib-dynload/_ssl.so"),
        ("./usr/share/doc/libc6/copyright", "usr/share/doc/libc6/copyright"),
        ("./usr/share/doc/libgcc-s1", "usr/share/doc/libgcc-s1"),
        ("./usr/share/common-licenses/GPL-3", "usr/share/common-licenses/GPL-3"),
        ("./etc/python3.11/sitecustomize.py", "etc/python3.11/sitecustomize.py"),
        ("./etc/os-release", "etc/os-release"),
    ],
)
def test_packages_lie_below_usr(name: str, expected: str) -> None:
    assert debian.place(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "./usr/share/doc/libc6/changelog.gz",
        "./usr/share/man/man1/bash.1.gz",
        "./usr/share/locale/de/LC_MESSAGES/tar.mo",
        "./usr/sbin/update-ca-certificates",
        "./sbin/ldconfig",
        "./etc/profile",
        "./etc/init.d/x",
        "./etc/ssl/openssl.cnf",
        "./var/mail",
        "./root/.profile",
        "./usr/lib/python3.11/lib-dynload/readline.cpython-311-x86_64-linux-gnu.so",
        "./usr/lib/x86_64-linux-gnu/engines-3/padlock.so",
        "./",
        "./tmp",
    ],
)
def test_what_no_program_of_ours_needs_is_left_out(name: str) -> None:
    assert debian.place(name) is None


def members(*infos: tuple[str, int, bytes]) -> tarfile.TarFile:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, mode, content in infos:
            member = tarfile.TarInfo(name)
            member.mode, member.size = mode, len(content)
            archive.addfile(member, io.BytesIO(content))
    return tarfile.open(fileobj=io.BytesIO(file.getvalue()))


def test_permissions_are_two(tmp_path: Path) -> None:
    with members(("./bin/tar", 0o755, b"x"), ("./usr/share/common-licenses/BSD", 0o664, b"y")) as archive:
        for member in archive:
            debian._unpack(archive, member, tmp_path)

    assert (tmp_path / "usr/bin/tar").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "usr/share/common-licenses/BSD").stat().st_mode & 0o7777 == 0o644


def test_refuses_a_package_with_a_program_that_takes_somebody_elses_rights(tmp_path: Path) -> None:
    with members(("./bin/su", 0o4755, b"x")) as archive, pytest.raises(RefusedError, match="usr/bin/su"):
        debian._unpack(archive, archive.getmembers()[0], tmp_path)


def test_a_package_that_changed_since_it_was_fetched_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"another one")
    fetched = debian.DebianPackage(name="x", version="1", architecture="amd64", file="x.deb", sha256="0" * 64)
    with pytest.raises(IntegrityError, match="has changed"):
        debian.unpack([fetched], tmp_path, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_licences_are_those_of_the_copyright_file(tmp_path: Path) -> None:
    file = tmp_path / "usr/share/doc/example/copyright"
    file.parent.mkdir(parents=True)
    file.write_text("Format: 1.0\n\nFiles: *\nLicense: GPL-2+\n Text.\n\nFiles: x\nLicense: Expat\n\nLicense: GPL-2+\n")

    assert debian.licences(tmp_path, "example") == ("Expat", "GPL-2+")
    assert debian.licences(tmp_path, "missing") == ()
    file.write_text("License: By using this you agree\n")
    assert debian.licences(tmp_path, "example") == ()
