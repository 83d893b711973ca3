from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.kubernetes.rendering import IMAGE

from strongroom.base.errors import ConfigurationError, RefusedError
from strongroom.cluster.kubernetes.settings import sort_settings
from strongroom.cluster.kubernetes.state import FinishedRun
from strongroom.cluster.shapes import ConfidentialNodeShape, PodShape, SgxShape, SimulatedShape
from strongroom.submit.kubernetes import (
    ClusterRequest,
    _counted,
    _placement,
    _spark_version,
    check_attestation,
    check_shape,
    keep_results,
)
from strongroom.submit.run import SubmitRequest, service_addresses
from strongroom.wire.azure_attestation import AzureAttestationAddress, TrustedAzureAttestation
from strongroom.wire.events import Finished
from strongroom.wire.trust import Trust

REQUEST = SubmitRequest(script=Path("report.py"), executors=3)
RUN_ID = "ab" * 16
TRUST = Trust(hardware="simulated", roots=(), services=(), owners=(), agent_measurements=())


def cluster(**settings: str) -> ClusterRequest:
    named = {name.replace("_", "."): value for name, value in settings.items()}
    conf = {"spark.kubernetes.container.image": IMAGE, **named}
    return ClusterRequest(master="k8s://prod", settings=sort_settings(conf), shape=SimulatedShape())


def test_more_executors_may_join_than_run_at_once() -> None:
    assert _counted(REQUEST, cluster()).max_executors == 10
    assert _counted(replace(REQUEST, max_executors=3), cluster()).max_executors == 3
    assert _counted(replace(REQUEST, executors=1000), cluster()).max_executors == 2004


def test_where_executors_come_and_go_the_ticket_says_how_many_at_most() -> None:
    dynamic = cluster(spark_dynamicAllocation_enabled="true", spark_dynamicAllocation_maxExecutors="5")
    assert _counted(REQUEST, dynamic).max_executors == 24

    for most in ({}, {"spark_dynamicAllocation_maxExecutors": "infinity"}):
        with pytest.raises(ConfigurationError, match="at most"):
            _counted(REQUEST, cluster(spark_dynamicAllocation_enabled="true", **most))


def test_the_namespace_and_waiting_are_sparks_own_settings() -> None:
    assert (cluster().namespace, cluster().waits) == ("default", True)
    other = cluster(spark_kubernetes_namespace="analysts", spark_kubernetes_submission_waitAppCompletion="false")
    assert (other.namespace, other.waits) == ("analysts", False)


@pytest.mark.parametrize("name", ["", "Analysts", "a/b", "x" * 64, "-a"])
def test_refuses_what_is_no_namespace(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no namespace's name"):
        _placement(cluster(spark_kubernetes_namespace=name))


def test_templates_are_files_of_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "driver.yaml"
    file.write_text("kind: Pod\nspec: {nodeSelector: {disk: fast}}\n")

    for place in (str(file), file.as_uri()):
        placed = _placement(cluster(spark_kubernetes_driver_podTemplateFile=place))
        assert placed.driver_template == {"kind": "Pod", "spec": {"nodeSelector": {"disk": "fast"}}}
        assert placed.executor_template is None
    with pytest.raises(ConfigurationError, match="not a file on this machine"):
        _placement(cluster(spark_kubernetes_executor_podTemplateFile="s3a://bucket/executor.yaml"))


def test_simulated_evidence_is_for_simulated_hardware_alone() -> None:
    real, kata = TRUST.model_copy(update={"hardware": "real"}), PodShape(runtime="kata-qemu-snp")
    check_shape(SimulatedShape(), trust=TRUST)
    check_shape(kata, trust=real)
    with pytest.raises(RefusedError, match="real hardware"):
        check_shape(SimulatedShape(), trust=real)
    with pytest.raises(RefusedError, match="simulated hardware"):
        check_shape(kata, trust=TRUST)


def test_azure_attestation_is_for_shapes_of_which_it_has_claims() -> None:
    url = "https://a.weu.attest.azure.net"
    address = AzureAttestationAddress(kind="azure-attestation", url=url)
    provider = TrustedAzureAttestation(address=address, certificates=("ab" * 32,))
    trust = TRUST.model_copy(update={"azure_attestation": (provider,)})
    request = replace(REQUEST, attested_by=url)

    check_attestation(request, SgxShape(flavour="gramine"), trust=trust)
    assert service_addresses(request, trust, in_cluster=True) == (address, {})
    for shape in (PodShape(runtime="kata-qemu-snp"), ConfidentialNodeShape(tee="snp")):
        with pytest.raises(RefusedError, match="does not say what is launched"):
            check_attestation(request, shape, trust=trust)
    with pytest.raises(ConfigurationError, match="does not name"):
        check_attestation(request, SgxShape(flavour="gramine"), trust=TRUST)


def test_an_archive_is_a_folder_of_the_pods() -> None:
    with pytest.raises(ConfigurationError, match="no folder of the pods'"):
        _placement(replace(cluster(), archive="s3://bucket/x"))


def test_what_a_run_left_lies_where_a_run_on_this_machine_leaves_it(tmp_path: Path) -> None:
    told = Finished(status=0, receipt=f"{RUN_ID}.receipt.json", output=f"{RUN_ID}.output.jwe", lines=2)
    files = {told.receipt: b"{}", f"{RUN_ID}.output.jwe": b"sealed"}
    finished = FinishedRun(finished=told, files=files, replaced_executors=1)

    outcome = keep_results(finished, run_id=RUN_ID, folder=tmp_path / "run")

    assert outcome.receipt.read_bytes() == b"{}"
    assert outcome.output is not None
    assert outcome.output.read_bytes() == b"sealed"
    assert (outcome.status, outcome.lines, outcome.replaced_executors) == (0, 2, 1)


def test_knows_the_installed_sparks_version() -> None:
    assert _spark_version() == "4.3.0"
