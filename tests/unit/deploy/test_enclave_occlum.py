"""The Occlum enclave: its configuration, and what must be true of it."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.scripts import ROOT, load_script

from strongroom.cluster.shapes import ENCLAVE_FOLDER
from strongroom.wire.pod import MEMORY_FOLDER, PACKAGE_FOLDER, RUN_FOLDER, TOKEN_FOLDER

build = load_script("deploy/enclaves/build.py")
FOLDER = ROOT / "deploy" / "enclaves" / "occlum"
GOLDEN = ROOT / "tests" / "golden" / "enclaves"
SIZE = re.compile(r"[1-9][0-9]*(B|KB|MB|GB|TB)")

# What Occlum reads (its `gen_internal_conf`, 0.31): every field, required ones marked, with the types of the values.
SCHEMA: dict[str, Any] = {
    "resource_limits": {
        "!kernel_space_heap_size": str,
        "kernel_space_heap_max_size": str,
        "!kernel_space_stack_size": str,
        "!user_space_size": str,
        "user_space_max_size": str,
        "init_num_of_threads": int,
        "!max_num_of_threads": int,
    },
    "process": {"!default_stack_size": str, "!default_heap_size": str, "!default_mmap_size": str},
    "entry_points": list,
    "env": {"!default": list, "!untrusted": list},
    "metadata": {
        "!product_id": int,
        "!version_number": int,
        "!debuggable": bool,
        "disable_log": bool,
        "!enable_kss": bool,
        "!family_id": {"!high": str, "!low": str},
        "!ext_prod_id": {"!high": str, "!low": str},
    },
    "feature": {"amx": int, "pkru": int, "io_uring": int, "enable_edmm": bool, "enable_posix_shm": bool},
    "mount": list,
}
MOUNT: dict[str, Any] = {"!type": str, "!target": str, "source": str, "options": dict}


def options(*arguments: str) -> argparse.Namespace:
    parsed: argparse.Namespace = build.parser().parse_args(
        ["occlum", "--key", "key.pem", "--out", ENCLAVE_FOLDER, *arguments]
    )
    return parsed


@pytest.fixture
def configuration() -> dict[str, Any]:
    made: dict[str, Any] = build.occlum_configuration(options("--storage", "/data"))
    return made


def check(value: Any, schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        assert isinstance(value, schema), where
        return
    required = {name[1:] for name in schema if name.startswith("!")}
    known = {name.removeprefix("!"): inner for name, inner in schema.items()}
    assert required <= set(value) <= set(known), where
    for name, inner in value.items():
        check(inner, known[name], f"{where}.{name}")


def test_the_configuration_is_what_it_was() -> None:
    text = json.dumps(build.occlum_configuration(options()), indent=2) + "\n"

    assert text == (GOLDEN / "Occlum.json").read_text(encoding="utf-8")


def test_occlum_reads_everything_in_it(configuration: dict[str, Any]) -> None:
    check(configuration, {f"!{name}": inner for name, inner in SCHEMA.items()}, "Occlum.json")
    for mount in configuration["mount"]:
        check(mount, MOUNT, mount["target"])
    sizes = [value for value in configuration["resource_limits"].values() if isinstance(value, str)]
    assert all(SIZE.fullmatch(size) for size in (*sizes, *configuration["process"].values()))


def test_the_host_may_start_one_program(configuration: dict[str, Any]) -> None:
    assert configuration["entry_points"] == ["/bin/strongroom-agent"]


def test_that_program_takes_no_options_of_the_hosts() -> None:
    """Occlum fixes which program is started, not its arguments: these come behind Python's own."""
    program = (FOLDER / "strongroom-agent").read_text(encoding="utf-8")

    # Occlum takes the whole first line as the interpreter's path (commit 690d5dbf, `do_spawn/exec_loader.rs`).
    assert program.startswith("#!/opt/strongroom/venv/bin/python3\n")
    compile(program, "strongroom-agent", "exec")


def test_python_looks_for_code_where_it_is_measured(configuration: dict[str, Any], tmp_path: Path) -> None:
    """Not in a user's folder nor beside the script, as with Python's -I. Variables are not the host's anyway."""
    script = tmp_path / "strongroom-agent"
    script.write_text(
        "import json, site, sys; print(json.dumps([sys.flags.safe_path, site.ENABLE_USER_SITE, sys.path]))"
    )
    environment = dict(word.split("=", 1) for word in configuration["env"]["default"])
    said = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    safe_path, user_site, path = json.loads(said.stdout)

    assert (safe_path, user_site) == (True, False)
    assert str(tmp_path) not in path
    assert not any(word.startswith("PYTHON") for word in configuration["env"]["untrusted"])


def test_it_is_no_debug_enclave_and_has_config_id(configuration: dict[str, Any]) -> None:
    metadata = configuration["metadata"]

    assert metadata["debuggable"] is False
    assert metadata["disable_log"] is True
    assert metadata["enable_kss"] is True
    assert metadata["product_id"] == 1


def test_the_host_chooses_no_variable_but_those_that_the_agent_checks(configuration: dict[str, Any]) -> None:
    words = {word for each in build.HOST_WORDS.values() for word in each}

    assert set(configuration["env"]["untrusted"]) == words
    assert not words & {text.partition("=")[0] for text in configuration["env"]["default"]}


def test_the_host_hands_in_its_words_and_datasets_only(configuration: dict[str, Any]) -> None:
    from_host = {mount["target"]: mount["source"] for mount in configuration["mount"] if mount["type"] == "hostfs"}

    assert from_host == {
        folder: folder
        for folder in (
            RUN_FOLDER,
            PACKAGE_FOLDER,
            TOKEN_FOLDER,
            "/var/run/secrets/kubernetes.io/serviceaccount",
            "/data",
        )
    }


def test_code_is_measured_and_what_is_written_is_gone(configuration: dict[str, Any]) -> None:
    (root,) = (mount for mount in configuration["mount"] if mount["target"] == "/")
    measured, written = root["options"]["layers"]

    assert root["type"] == "unionfs"
    assert measured == {"target": "/", "type": "sefs", "source": "./build/mount/__ROOT", "options": {"MAC": ""}}
    assert written["options"] == {"temporary": True}


def test_scratch_is_in_the_enclaves_memory(configuration: dict[str, Any]) -> None:
    kinds = {mount["target"]: mount["type"] for mount in configuration["mount"]}

    assert kinds[MEMORY_FOLDER] == kinds["/tmp"] == "ramfs"


def test_every_mount_has_a_folder_in_the_image(configuration: dict[str, Any]) -> None:
    made = {f"/{line.strip().removeprefix('- ')}" for line in (FOLDER / "bom.yaml").read_text().splitlines()}
    of_occlums_base = {"/", "/tmp"}

    for mount in build.occlum_configuration(options())["mount"]:
        assert mount["target"] in made | of_occlums_base, mount
    assert configuration["mount"]


def test_the_image_holds_what_it_names() -> None:
    bom = (FOLDER / "bom.yaml").read_text(encoding="utf-8")
    named = re.findall(r"name: (\S+)", bom)

    assert named == ["strongroom-agent"]
    assert all((FOLDER / name).is_file() for name in named)
    assert "*" not in bom  # copy_bom knows no patterns


def test_the_commands_are_occlums() -> None:
    copy, make = build.occlum_commands(Path("/out"), key=Path("/key.pem"))

    assert copy == ["copy_bom", "-f", str(build.BOM), "--root", "/out/image", "--include-dir", build.OCCLUM_TEMPLATES]
    assert make == ["occlum", "build", "--sign-key", "/key.pem", "--enable-edmm", "Y"]


def test_reference_values_are_what_occlum_prints() -> None:
    printed = {"mrenclave": f"{'AB' * 32}\n", "mrsigner": f"{'cd' * 32}\n"}

    assert build.occlum_reference(printed, security_version=4) == {
        "mrenclave": "ab" * 32,
        "mrsigner": "cd" * 32,
        "isv_prod_id": 1,
        "isv_svn": 4,
    }


def test_no_reference_value_of_nothing() -> None:
    with pytest.raises(SystemExit, match="printed no measurement"):
        build.occlum_reference({"mrenclave": "the enclave is not built\n"}, security_version=1)


@pytest.mark.parametrize("arguments", [("--size", "16T"), ("--storage", "data"), ("--storage", "/a/../b/..")])
def test_refuses_values_of_another_form(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        options(*arguments)


def test_says_what_to_do_without_occlum() -> None:
    with pytest.raises(SystemExit, match="occlum-nothing is not installed"):
        build.run(["occlum-nothing"])
