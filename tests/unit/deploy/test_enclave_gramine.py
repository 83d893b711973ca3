"""The Gramine enclave: its manifest rendered as Gramine's own tool renders it, and what must be true of it."""

import argparse
import json
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import jinja2.meta
import pytest
from tests.support.scripts import load_script

from strongroom.cluster.shapes import ENCLAVE_FOLDER
from strongroom.wire.pod import DRIVER_KEY_ENV, MEMORY_FOLDER, PACKAGE_FOLDER, POD_NAME_ENV, RUN_FOLDER, TOKEN_FOLDER

build = load_script("deploy/enclaves/build.py")
GOLDEN = Path(__file__).parents[2] / "golden" / "enclaves"
GRAMINE = "/usr/lib/x86_64-linux-gnu/gramine"

# Which sections and keys Gramine 1.8 knows (its `manifest_check`), with the types of their values.
KNOWN: dict[str, type | dict[str, Any]] = {
    "libos": {"entrypoint": str},
    "loader": {
        "entrypoint": {"uri": str},
        "argv": list,
        "env": dict,
        "gid": int,
        "log_level": str,
        "uid": int,
    },
    "fs": {"mounts": list},
    "sgx": {
        "allowed_files": list,
        "debug": bool,
        "edmm_enable": bool,
        "enclave_size": str,
        "file_check_policy": str,
        "isvprodid": int,
        "isvsvn": int,
        "max_threads": int,
        "remote_attestation": str,
        "trusted_files": list,
        "use_exinfo": bool,
    },
    "sys": {
        "brk": {"max_size": str},
        "enable_extra_runtime_domain_names_conf": bool,
        "enable_sigterm_injection": bool,
        "fds": {"limit": int},
        "insecure__allow_eventfd": bool,
        "stack": {"size": str},
    },
}
HOST_VALUES = [RUN_FOLDER, PACKAGE_FOLDER, TOKEN_FOLDER, "/var/run/secrets/kubernetes.io/serviceaccount"]


def options(*arguments: str) -> argparse.Namespace:
    parsed: argparse.Namespace = build.parser().parse_args(
        ["gramine", "--key", "key.pem", "--out", ENCLAVE_FOLDER, *arguments]
    )
    return parsed


def rendered(role: str, *arguments: str) -> str:
    """Return the manifest as `gramine-manifest` renders it: Jinja, and two names of Gramine's own."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.globals["gramine"] = SimpleNamespace(
        libos=f"{GRAMINE}/libsysdb.so", runtimedir=lambda _libc="glibc": f"{GRAMINE}/runtime/glibc"
    )
    template = environment.from_string(build.MANIFEST.read_text(encoding="utf-8"))
    return template.render(**build.gramine_variables(options(*arguments), role))


@pytest.fixture(params=["driver", "executor"])
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifest(role: str) -> dict[str, Any]:
    return tomllib.loads(rendered(role, "--storage", "/data"))


def test_the_manifest_is_what_it_was(role: str) -> None:
    assert rendered(role) == (GOLDEN / f"{role}.manifest").read_text(encoding="utf-8")


def test_gramine_knows_everything_in_it(manifest: dict[str, Any]) -> None:
    def check(value: Any, known: Any, where: str) -> None:
        if isinstance(known, dict):
            assert set(value) <= set(known), where
            for name, inner in value.items():
                check(inner, known[name], f"{where}.{name}")
        else:
            assert isinstance(value, known), where

    check(manifest, KNOWN, "manifest")


def test_the_host_chooses_no_argument(manifest: dict[str, Any], role: str) -> None:
    assert manifest["loader"]["argv"] == [
        "/opt/strongroom/venv/bin/python3",
        "-I",
        "-m",
        "strongroom.agent",
        "--pod",
        role,
    ]
    assert "insecure__use_cmdline_argv" not in manifest["loader"]
    assert "argv_src_file" not in manifest["loader"]


def test_the_host_chooses_no_variable_but_those_that_the_agent_checks(manifest: dict[str, Any], role: str) -> None:
    environment = manifest["loader"]["env"]
    from_host = {name for name, value in environment.items() if value == {"passthrough": True}}

    assert from_host == set(build.HOST_WORDS[role])
    assert all(isinstance(value, str) for name, value in environment.items() if name not in from_host)
    assert "insecure__use_host_env" not in manifest["loader"]
    assert "env_src_file" not in manifest["loader"]


def test_the_words_of_the_host_are_sparks_and_ours() -> None:
    words = {word for each in build.HOST_WORDS.values() for word in each}

    assert {DRIVER_KEY_ENV, POD_NAME_ENV} <= words
    assert all(word.startswith(("SPARK_", "STRONGROOM_")) for word in words)


def test_it_is_no_debug_enclave_and_can_be_quoted(manifest: dict[str, Any]) -> None:
    sgx = manifest["sgx"]

    assert sgx["debug"] is False
    assert sgx["remote_attestation"] == "dcap"
    assert sgx["file_check_policy"] == "strict"
    assert "enable_stats" not in sgx
    assert "profile" not in sgx
    assert manifest["loader"]["log_level"] == "error"


def test_java_can_stop_its_threads(manifest: dict[str, Any]) -> None:
    assert manifest["sgx"]["edmm_enable"] is True
    assert manifest["sgx"]["use_exinfo"] is True


def test_the_only_option_that_gramine_calls_insecure_is_the_one_that_is_explained(role: str) -> None:
    text = rendered(role)
    settings = [line for line in text.splitlines() if not line.startswith("#")]

    assert [line for line in settings if "insecure" in line] == ["sys.insecure__allow_eventfd = true"]


def test_what_the_host_can_change_is_no_code(manifest: dict[str, Any]) -> None:
    allowed = {uri.removeprefix("file:").rstrip("/") for uri in manifest["sgx"]["allowed_files"]}
    trusted = {uri.removeprefix("file:").rstrip("/") for uri in manifest["sgx"]["trusted_files"]}

    assert allowed == {*HOST_VALUES, "/data"}
    for folder in allowed:
        for code in trusted:
            assert not f"{folder}/".startswith(f"{code}/")
            assert not f"{code}/".startswith(f"{folder}/")


def test_everything_that_is_mounted_is_measured_or_the_hosts_or_protected(manifest: dict[str, Any]) -> None:
    sgx = manifest["sgx"]
    known = {uri.removeprefix("file:").rstrip("/") for uri in (*sgx["trusted_files"], *sgx["allowed_files"])}
    for mount in manifest["fs"]["mounts"]:
        if mount.get("type", "chroot") == "chroot":
            assert mount["uri"].removeprefix("file:").rstrip("/") in known, mount


def test_scratch_is_encrypted_or_in_the_enclave(manifest: dict[str, Any]) -> None:
    mounts = {mount["path"]: mount for mount in manifest["fs"]["mounts"]}

    assert mounts[MEMORY_FOLDER]["type"] == "encrypted"
    assert mounts[MEMORY_FOLDER]["key_name"] == "_sgx_mrenclave"
    assert mounts["/tmp"] == {"type": "tmpfs", "path": "/tmp"}
    assert "insecure__keys" not in manifest["fs"]


def test_kubernetes_can_end_it(manifest: dict[str, Any]) -> None:
    assert manifest["sys"]["enable_sigterm_injection"] is True


def test_one_measurement_for_one_application_where_it_is_asked_for() -> None:
    application = "3f9c" * 16
    environment = tomllib.loads(rendered("driver", "--application", application))["loader"]["env"]

    assert environment["STRONGROOM_APPLICATION"] == application
    assert "STRONGROOM_APPLICATION" not in tomllib.loads(rendered("driver"))["loader"]["env"]


def test_driver_and_executor_differ_in_what_they_are_told_only() -> None:
    driver, executor = (tomllib.loads(rendered(role)) for role in build.ROLES)
    for each in (driver, executor):
        del each["loader"]["argv"], each["loader"]["env"]

    assert driver == executor


@pytest.mark.parametrize(
    "arguments",
    [
        ("--storage", "/opt/strongroom/data"),
        ("--storage", "/opt"),
        ("--storage", "/strongroom"),
        ("--code", "/strongroom/run/code"),
        ("--code", "/strongroom/memory/code", "--storage", "/strongroom/memory"),
    ],
)
def test_refuses_folders_that_would_be_both_measured_and_the_hosts(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit, match="never both"):
        build.gramine_variables(options(*arguments), "driver")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--storage", 'data"'),
        ("--storage", "/a,/b"),
        ("--code", "/opt/../etc"),
        ("--size", "16T"),
        ("--application", "3f9c"),
        ("--python", '/python"\ninjected = "x'),
    ],
)
def test_refuses_values_that_could_change_the_manifest(arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        options(*arguments)


def test_the_commands_are_gramines(role: str) -> None:
    values = build.gramine_variables(options(), role)
    render, check, sign = build.gramine_commands(role, values, out=Path("/out"), key=Path("/key.pem"))

    assert render == [
        "gramine-manifest",
        *(f"-D{name}={value}" for name, value in values.items()),
        str(build.MANIFEST),
        f"/out/{role}.manifest",
    ]
    assert check == ["gramine-manifest-check", f"/out/{role}.manifest"]
    assert sign == [
        "gramine-sgx-sign",
        *("--key", "/key.pem", "--manifest", f"/out/{role}.manifest", "--output", f"/out/{role}.manifest.sgx"),
    ]


def test_the_template_uses_exactly_what_it_is_given(role: str) -> None:
    environment = jinja2.Environment(autoescape=False)
    used = jinja2.meta.find_undeclared_variables(environment.parse(build.MANIFEST.read_text(encoding="utf-8")))

    assert used == {*build.gramine_variables(options(), role), "gramine"}


def test_reference_values_are_read_from_what_gramine_shows() -> None:
    shown = {"mr_signer": "aa" * 32, "mr_enclave": "bb" * 32, "isv_prod_id": 1, "isv_svn": 3, "debug_enclave": False}

    assert build.gramine_reference(json.dumps(shown)) == {
        "mrenclave": "bb" * 32,
        "mrsigner": "aa" * 32,
        "isv_prod_id": 1,
        "isv_svn": 3,
    }


@pytest.mark.parametrize("shown", [{"debug_enclave": True}, {}, {"debug_enclave": False}])
def test_no_reference_value_of_a_debug_enclave_or_of_nothing(shown: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        build.gramine_reference(json.dumps(shown))


def test_says_what_to_do_without_gramine(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="gramine-nothing is not installed"):
        build.run(["gramine-nothing"])
