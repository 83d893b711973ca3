import zipfile
from pathlib import Path

import pytest

from strongroom.base.errors import ConfigurationError, EngineError
from strongroom.engine.build import compile_jar, java_sources


@pytest.fixture(scope="module")
def jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("jar") / "first.jar"
    compile_jar(java_sources(), path)
    return path


def test_the_jar_has_the_same_bytes_each_time(jar: Path, tmp_path: Path) -> None:
    compile_jar(java_sources(), tmp_path / "second.jar")
    assert (tmp_path / "second.jar").read_bytes() == jar.read_bytes()


def test_the_jar_holds_our_classes_only(jar: Path) -> None:
    names = zipfile.ZipFile(jar).namelist()
    assert "strongroom/CryptoFactory.class" in names
    assert all(name.startswith("strongroom/") and name.endswith(".class") for name in names)


def test_java_that_does_not_compile_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "Broken.java").write_text("class Broken { int x = y; }")
    with pytest.raises(EngineError, match="do not compile"):
        compile_jar(tmp_path, tmp_path / "out.jar")


def test_a_folder_without_java_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no Java sources"):
        compile_jar(tmp_path, tmp_path / "out.jar")
