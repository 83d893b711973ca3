import base64
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.shapes import APPLICATION, CASES, IMAGE, LAUNCH, MICROSOFT_POLICY, pod

from strongroom.agent.member import launch_identity
from strongroom.attestation.evidence.initdata import parse_initdata, verify_initdata
from strongroom.base.encoding import from_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cluster.shapes import (
    ACI_POLICY_ANNOTATION,
    AKS_POLICY_ANNOTATION,
    ENCLAVE_FOLDER,
    INITDATA_ANNOTATION,
    Launch,
    Overlay,
    SgxShape,
    apply_overlay,
    parse_shape,
    render_overlay,
)
from strongroom.wire.descriptor import DeviceSetting
from strongroom.wire.model import VirtualTeeKind
from strongroom.wire.pod import PLATFORM_SOCKET


def overlay(name: str, **options: str) -> Overlay:
    named = {option.replace("_", "-"): value for option, value in options.items()}
    return render_overlay(parse_shape(name, named), LAUNCH, role="driver")


def annotation(rendered: Overlay, name: str) -> bytes:
    metadata: Any = rendered.pod["metadata"]
    return base64.b64decode(metadata["annotations"][name], validate=True)


KATA = [
    name for name, case in CASES.items() if case.options.get("runtime", "").startswith(("kata-qemu", "kata-remote"))
]


@pytest.mark.parametrize("name", KATA)
def test_a_pod_of_kata_is_launched_for_one_application_out_of_one_image(name: str) -> None:
    document = gzip.decompress(annotation(CASES[name].overlay(), INITDATA_ANNOTATION))

    assert parse_initdata(document).application == APPLICATION
    assert parse_initdata(document).image == IMAGE.rpartition("@")[2]


@pytest.mark.parametrize("name", KATA)
def test_the_agent_shows_the_document_that_its_pod_was_launched_with(name: str) -> None:
    rendered = CASES[name].overlay()

    assert rendered.device is not None
    assert from_b64url(rendered.device.initdata or "") == gzip.decompress(annotation(rendered, INITDATA_ANNOTATION))


@pytest.mark.parametrize(
    ("name", "tee", "size_bytes"), [("pod-kata-qemu-snp", "snp", 32), ("pod-kata-qemu-tdx", "tdx", 48)]
)
def test_a_pod_of_kata_says_what_will_stand_in_its_evidence(name: str, tee: VirtualTeeKind, size_bytes: int) -> None:
    rendered = CASES[name].overlay()
    document = gzip.decompress(annotation(rendered, INITDATA_ANNOTATION))
    launched_with = hashlib.sha256(document).digest().ljust(size_bytes, b"\0")

    assert rendered.launched_with == launched_with.hex()
    assert verify_initdata(document, kind=tee, launched_with=launched_with).application == APPLICATION


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.overlay().launched_with])
def test_the_agent_expects_what_its_pod_is_launched_with(name: str) -> None:
    rendered = CASES[name].overlay()
    if rendered.device is None:
        assert name in {"pod-aci", "pod-kata-cc-isolation"}
        return
    expected = launch_identity(APPLICATION, rendered.device)

    assert bytes.fromhex(rendered.launched_with or "").ljust(len(expected), b"\0") == expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("simulated", "process"), ("confidential-node", "confidential-node"), ("pod", "pod"), ("sgx", "process")],
)
def test_the_agent_is_told_which_shape_it_was_launched_as(shape: str, expected: str) -> None:
    devices = [case.overlay().device for case in CASES.values() if case.shape == shape]

    assert {device.shape for device in devices if device is not None} == {expected}


@pytest.mark.parametrize(
    ("name", "key"), [("pod-aci", ACI_POLICY_ANNOTATION), ("pod-kata-cc-isolation", AKS_POLICY_ANNOTATION)]
)
def test_a_policy_that_is_hashed_itself_names_no_application_so_no_device_is_named(name: str, key: str) -> None:
    rendered = CASES[name].overlay()

    assert annotation(rendered, key).decode() == MICROSOFT_POLICY
    assert rendered.launched_with == hashlib.sha256(MICROSOFT_POLICY.encode()).hexdigest()
    assert rendered.device is None


def test_another_application_or_image_is_another_launch() -> None:
    shape = CASES["pod-kata-qemu-snp"]
    other_application = Launch(application="b2" * 32, image=IMAGE)
    other_image = Launch(application=APPLICATION, image=f"a@sha256:{'2e' * 32}")
    values = {
        render_overlay(parse_shape(shape.shape, shape.options), launch, role="driver").launched_with
        for launch in (LAUNCH, other_application, other_image)
    }

    assert len(values) == 3


def test_driver_and_executors_of_kata_are_launched_alike() -> None:
    """One value for a run: approvals need not name two."""
    shape = parse_shape("pod", {"runtime": "kata-qemu-tdx"})

    assert render_overlay(shape, LAUNCH, role="driver") == render_overlay(shape, LAUNCH, role="executor")


def test_occlums_loader_gets_the_application_for_config_id() -> None:
    variables: Any = CASES["sgx-occlum"].overlay().container["env"]
    (config_id,) = [each["value"] for each in variables if each["name"] == "OCCLUM_CONF_ID_BASE64"]

    assert base64.b64decode(config_id) == bytes.fromhex(APPLICATION) + bytes(32)
    assert CASES["sgx-occlum"].overlay().launched_with == APPLICATION + "00" * 32


def test_gramines_arguments_come_from_its_manifest() -> None:
    assert CASES["sgx-gramine"].overlay().container["command"] == ["gramine-sgx", f"{ENCLAVE_FOLDER}/driver"]
    assert CASES["sgx-gramine-executor"].overlay().container["command"] == ["gramine-sgx", f"{ENCLAVE_FOLDER}/executor"]


@pytest.mark.parametrize("name", CASES)
def test_what_device_plugins_hand_out_is_asked_for_as_it_is_limited(name: str) -> None:
    """The API server refuses extended resources whose request differs from the limit."""
    resources: Any = CASES[name].overlay().container.get("resources")

    assert resources is None or resources["limits"] == resources["requests"]


@pytest.mark.parametrize("name", CASES)
def test_no_shape_is_privileged_or_shares_the_nodes_namespaces(name: str) -> None:
    rendered = json.dumps(pod(name, namespace="runs"))

    for word in ("privileged", "hostNetwork", "hostPID", "hostIPC", "SYS_ADMIN"):
        assert word not in rendered


@pytest.mark.parametrize("name", CASES)
def test_no_secret_stands_in_a_shape(name: str) -> None:
    rendered = json.dumps(pod(name, namespace="runs"))

    for word in ("secretKeyRef", "secretRef", "secretName"):
        assert word not in rendered


@pytest.mark.parametrize("name", CASES)
def test_merging_keeps_what_the_template_had(name: str) -> None:
    merged: Any = pod(name, namespace="runs")
    (container,) = merged["spec"]["containers"]

    assert merged["metadata"]["labels"] == {"strongroom.run": "0123456789ab", "strongroom.shape": CASES[name].shape}
    assert {each["name"] for each in merged["spec"]["volumes"]} >= {"spark-local-dir-1"}
    assert "/strongroom/memory" in {each["mountPath"] for each in container["volumeMounts"]}
    assert container["resources"]["limits"]["memory"] == "1Gi"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["args"] == [CASES[name].role]


def test_merging_is_by_name_and_the_shapes_word_counts() -> None:
    template: dict[str, Any] = {
        "metadata": {"labels": {"strongroom.shape": "other", "a": "b"}},
        "spec": {
            "securityContext": {"supplementalGroups": [7, 109]},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "volumes": [{"name": "aesmd", "emptyDir": {}}, {"name": "mine", "emptyDir": {}}],
            "containers": [
                {"name": "sidecar", "env": [{"name": "A", "value": "1"}]},
                {"name": "spark", "command": ["x", "y"], "env": [{"name": "A", "value": "1"}]},
            ],
        },
    }
    added = Overlay(
        device=DeviceSetting(kind="occlum"),
        pod={
            "metadata": {"labels": {"strongroom.shape": "sgx"}},
            "spec": {
                "securityContext": {"supplementalGroups": [109]},
                "tolerations": [{"key": "y", "operator": "Exists"}],
                "volumes": [{"name": "aesmd", "hostPath": {"path": "/var/run/aesmd"}}],
            },
        },
        container={"command": ["z"], "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
    )

    merged: Any = apply_overlay(template, added, container="spark")

    assert merged["metadata"]["labels"] == {"strongroom.shape": "sgx", "a": "b"}
    assert merged["spec"]["securityContext"] == {"supplementalGroups": [7, 109]}
    assert [each["key"] for each in merged["spec"]["tolerations"]] == ["x", "y"]
    assert merged["spec"]["volumes"] == [
        {"name": "aesmd", "hostPath": {"path": "/var/run/aesmd"}},
        {"name": "mine", "emptyDir": {}},
    ]
    sidecar, spark = merged["spec"]["containers"]
    assert sidecar == template["spec"]["containers"][0]
    assert spark == {
        "name": "spark",
        "command": ["z"],
        "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
    }


def test_merging_leaves_the_template_as_it_was() -> None:
    template: dict[str, Any] = {"metadata": {"labels": {}}, "spec": {"containers": [{"name": "spark", "env": []}]}}
    before = json.dumps(template)

    apply_overlay(template, CASES["sgx-occlum"].overlay(), container="spark")

    assert json.dumps(template) == before


@pytest.mark.parametrize(
    "template",
    [
        {},
        {"spec": {}},
        {"spec": {"containers": []}},
        {"spec": {"containers": [{"name": "other"}]}},
        {"spec": {"containers": [{"name": "spark"}, {"name": "spark"}]}},
        {"spec": {"containers": "spark"}},
        {"spec": []},
    ],
)
def test_refuses_a_template_without_the_container(template: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="no container spark"):
        apply_overlay(template, CASES["simulated"].overlay(), container="spark")


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("enclave", {}, "there is no shape"),
        ("simulated", {"tee": "sev"}, "tee"),
        ("simulated", {"tees": "sgx"}, "tees"),
        ("simulated", {"name": "pod"}, "no option name"),
        ("confidential-node", {}, "tee"),
        ("confidential-node", {"tee": "sgx"}, "tee"),
        ("confidential-node", {"tee": "snp", "group": "root"}, "group"),
        ("confidential-node", {"tee": "snp", "group": "0"}, "group"),
        ("confidential-node", {"tee": "snp", "group": "9" * 5000}, "group"),
        ("confidential-node", {"tee": "snp", "node-labels": ""}, "node_labels"),
        ("confidential-node", {"tee": "snp", "node-labels": "a b=c"}, "node_labels"),
        ("confidential-node", {"tee": "snp", "tolerated": "a/b/c"}, "tolerated"),
        ("pod", {}, "runtime"),
        ("pod", {"runtime": "runc"}, "runtime"),
        ("pod", {"runtime": "kata-qemu-snp", "storage": "data"}, "storage"),
        ("pod", {"runtime": "kata-qemu-snp", "environment": "PATH"}, "environment"),
        ("sgx", {"flavour": "scone"}, "flavour"),
        ("sgx", {"flavour": "occlum", "epc-mib": "1"}, "epc_mib"),
        ("sgx", {"flavour": "occlum", "aesm": "yes"}, "aesm"),
    ],
)
def test_refuses_options_that_a_shape_does_not_have(name: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(FormatError, match=says):
        parse_shape(name, options)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("confidential-node", {"tee": "tdx", "device": "sev-guest", "resource": "a/b"}, "sev-guest is SEV-SNP's"),
        ("confidential-node", {"tee": "snp"}, "how the device plugin calls"),
        ("confidential-node", {"tee": "snp", "device": "tsm", "resource": "a/b"}, "no device plugin"),
        ("pod", {"runtime": "kata-remote"}, "more than one kind"),
        ("pod", {"runtime": "kata-qemu-snp", "tee": "tdx"}, "starts snp, not tdx"),
        ("pod", {"runtime": "kata-qemu-snp", "policy": "package agent_policy"}, "rendered here"),
        ("pod", {"runtime": "aci"}, "Microsoft's tool"),
        ("pod", {"runtime": "aci", "tee": "tdx", "policy": "x"}, "starts snp, not tdx"),
    ],
)
def test_refuses_options_that_contradict_each_other(name: str, options: dict[str, str], says: str) -> None:
    shape = parse_shape(name, options)
    with pytest.raises(ConfigurationError, match=says):
        render_overlay(shape, LAUNCH, role="driver")


def test_refuses_to_launch_an_image_by_its_tag() -> None:
    case = CASES["pod-kata-qemu-snp"]
    launch = Launch(application=APPLICATION, image="registry.example/strongroom/spark:latest")
    with pytest.raises(FormatError, match="not named by its digest"):
        render_overlay(parse_shape(case.shape, case.options), launch, role="driver")


def test_the_simulated_shape_needs_no_option() -> None:
    assert overlay("simulated").device == DeviceSetting(kind="simulated-sgx", socket=PLATFORM_SOCKET)


def test_options_are_read_from_text() -> None:
    shape = parse_shape("sgx", {"flavour": "gramine", "epc-mib": "4096", "aesm": "false"})

    assert shape == SgxShape(flavour="gramine", epc_mib=4096, aesm=False)


def test_the_device_plugin_hands_out_what_the_shapes_ask_for(repo_root: Path) -> None:
    text = (repo_root / "deploy" / "shapes" / "device-plugin.yaml").read_text(encoding="utf-8")
    for case in CASES.values():
        if resource := case.options.get("resource"):
            domain, _, device = resource.partition("/")
            assert domain == "squat.ai"
            assert f'"name": "{device}"' in text
