"""The product's images are built when what they are made from has changed, and only then."""

from pathlib import Path

import pytest
from tests.support.kubernetes.images import inputs_digest, product_archive

from strongroom.base.errors import NotFoundError, UnavailableError

BUILDER = """\
import sys, pathlib
from tests.support.kubernetes.oci import write_archive
name, out = sys.argv[2], pathlib.Path(sys.argv[4])
built = pathlib.Path("built")
built.write_text(built.read_text() + "x" if built.exists() else "x")
text = pathlib.Path("src/a.py").read_bytes()
if text == b"broken":
    sys.exit("this does not compile")
image = {"programs": {"/a": text}, "entrypoint": ["/a"], "command": [], "user": "1:1"}
write_archive(out / f"{name}.oci.tar", name="localhost/it:e2e", **image)
"""


@pytest.fixture
def checkout(tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    for name, text in {"deploy/images/build.py": BUILDER, "src/a.py": "one", "pyproject.toml": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(repo_root))
    return folder


def test_an_image_is_built_once_for_each_state_of_its_inputs(checkout: Path, tmp_path: Path) -> None:
    def build() -> str:
        return product_archive("spark", tmp_path / "state", say=lambda _: None, repository=checkout).digest

    first = build()
    assert build() == first
    assert (checkout / "built").read_text() == "x"
    (checkout / "src" / "a.py").write_text("two")
    assert build() != first
    assert (checkout / "built").read_text() == "xx"


def test_a_build_that_fails_is_told_and_tried_again(checkout: Path, tmp_path: Path) -> None:
    (checkout / "src" / "a.py").write_text("broken")
    for _ in range(2):
        with pytest.raises(UnavailableError, match="image spark could not be built: this does not compile"):
            product_archive("spark", tmp_path / "state", say=lambda _: None, repository=checkout)


def test_compiled_files_are_no_inputs(checkout: Path) -> None:
    before = inputs_digest(checkout)
    (checkout / "src" / "__pycache__").mkdir()
    (checkout / "src" / "__pycache__" / "a.pyc").write_bytes(b"compiled")
    assert inputs_digest(checkout) == before
    (checkout / "src" / "b.py").touch()
    assert inputs_digest(checkout) != before


def test_a_checkout_without_a_builder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"build\.py is not in"):
        product_archive("spark", tmp_path / "state", say=lambda _: None, repository=tmp_path)
