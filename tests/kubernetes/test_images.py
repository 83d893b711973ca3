"""The product's images, as they run: what is in them, what is not, and what they are measured as."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from deploy.images.system import PYTHON
from tests.support.kubernetes.cluster import Cluster, CommandError
from tests.support.kubernetes.images import WITH_CACHE, product_archive
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.pods import RESTRICTED, configuration, pod
from tests.support.kubernetes.site import state_folder

from strongroom.wire.descriptor import Descriptor, DeviceSetting, ServiceAddress, Sizes

IMAGES = ("service", "spark")
SHELLS = ("sh", "/bin/sh", "/bin/bash", "/bin/dash", "/bin/busybox")
LAUNCHED = "launched process"
PLATFORM_FOLDER = "/strongroom/platform/state"

CONTAINER = """
import json, os, pwd, sys

def can_write(folder):
    try:
        with open(os.path.join(folder, "x"), "w"):
            return True
    except OSError:
        return False

folders = [folder for folder, _, _ in os.walk("/") if not folder.startswith(("/proc", "/sys", "/dev"))]
files = [os.path.join(folder, name) for folder, _, names in os.walk("/opt") for name in names]
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), os.geteuid(), os.getegid()],
    "name": pwd.getpwuid(os.getuid()).pw_name,
    "writable": [folder for folder in folders if can_write(folder)],
    "owned": [file for file in files if os.lstat(file).st_uid],
}))
"""
# Every module with compiled code finds the libraries that it was built for.
LIBRARIES = """
import importlib, pathlib, sys, sysconfig

library = pathlib.Path(sysconfig.get_path("stdlib"), "lib-dynload")
names = [path.name.split(".")[0] for path in sorted(library.glob("*.so"))] + sys.argv[1:]
for name in names:
    if not name.startswith(("_test", "_xxtest", "xxlimited")):
        importlib.import_module(name)
print(len(names))
"""
MODULES = {
    "service": (
        "ssl", "sqlite3", "dcap_qvl", "uvloop", "httptools", "psycopg", "pkcs11", "azure.identity",
        "azure.keyvault.keys",
        "strongroom.services.attestation_service", "strongroom.services.key_service",
        "strongroom.services.collateral_service", "strongroom.services.witness", "strongroom.simulation.server",
        "strongroom.keys.store.databases.postgres", "strongroom.services.provision", "strongroom.cli.commands.services",
        "strongroom.cli.commands.key_service",
    ),
    "spark": (
        "ssl", "sqlite3", "numpy", "pandas", "pyarrow.parquet", "pyarrow.dataset", "pyspark.sql", "pyspark.ml",
        "strongroom.agent.main", "strongroom.datasets.parquet",
    ),
}  # fmt: skip

SPARK = '''
"""A cluster of Spark's in one pod: Java, Python workers, and an archive that Hadoop unpacks."""
import os, sys, tarfile
from pathlib import Path
from strongroom.engine.cluster import StandaloneCluster
from strongroom.engine.runtime import find_runtime
from strongroom.engine.spark import Application, InsecurePlainNode, Resources, start_driver, start_master, start_worker

SCRIPT = """
import pwd, os
from pathlib import Path
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

session = SparkSession.builder.getOrCreate()
double = F.udf(lambda value: value * 2, "long")
rows = session.range(1000, numPartitions=2).select(double("id").alias("doubled"))
total = rows.agg(F.sum("doubled")).first()[0]
words = session.sparkContext.parallelize([0], 1).map(lambda _: Path("unpacked/words").read_text()).first()
user = session._jvm.org.apache.hadoop.security.UserGroupInformation.getCurrentUser().getShortUserName()
rows.write.parquet(str(Path(os.environ["TMPDIR"]) / "table"))
Path(RESULT).write_text(f"{total} {words} {user} {session.read.parquet(os.environ['TMPDIR'] + '/table').count()}")
"""
memory = Path("/strongroom/memory")
with tarfile.open(memory / "archive.tar.gz", "w:gz") as archive:
    (memory / "words").write_text("unpacked")
    archive.add(memory / "words", "words")
(memory / "script.py").write_text(SCRIPT.replace("RESULT", repr(str(memory / "result"))))

def node(name):
    (memory / name).mkdir()
    return InsecurePlainNode(runtime=find_runtime(), scratch=memory / name, host="127.0.0.1")

master, url = start_master(node("driver"))
worker = start_worker(node("worker"), master_url=url, cores=1, memory="700m")
with open(memory / "output", "wb") as output:
    driver = start_driver(
        InsecurePlainNode(runtime=find_runtime(), scratch=memory / "driver", host="127.0.0.1"),
        cluster=StandaloneCluster(url=url),
        application=Application(
            name="test",
            entry_point=memory / "script.py",
            archives=(Path(f"{memory}/archive.tar.gz#unpacked"),),
            settings={f"spark.{role}.extraJavaOptions": "-XX:TieredStopAtLevel=1" for role in ("driver", "executor")},
        ),
        resources=Resources(driver_memory="500m", executor_memory="500m", executor_cores=1),
        stdout=output,
        stderr=output,
    )
    status = driver.wait(240)
if status:
    print((memory / "output").read_text()[-3000:])
    for log in (memory / "driver/log", memory / "worker/log"):
        for path in log.iterdir():
            print(path, path.read_text()[-2000:])
else:
    print("result:", (memory / "result").read_text())
worker.kill()
master.kill()
sys.exit(status)
'''
PLATFORM = f"""
import logging, sys
from pathlib import Path
from strongroom.simulation.server import serve

logging.basicConfig(level=logging.INFO, stream=sys.stdout)
serve(Path("{PLATFORM_FOLDER}"), ready=lambda: print("ready", flush=True))
"""
AGENT = f"""
until [ -S {PLATFORM_FOLDER}/platform.sock ]; do sleep 0.2; done
exec /usr/local/bin/strongroom-agent /strongroom/run/descriptor.json
"""
MEASURE = f"""
import json
from pathlib import Path
from strongroom.simulation.server import expected_measurement, socket_of

entries = ("strongroom.services.attestation_service", "strongroom.services.key_service")
kinds = {{"mrenclave": "sgx", "mrtd": "tdx", "launch_digest": "snp"}}
socket = socket_of(Path("{PLATFORM_FOLDER}"))
def values(entry):
    return {{name: expected_measurement(socket, entry=entry, tee=tee) for name, tee in kinds.items()}}

print(json.dumps({{entry: values(entry) for entry in entries}}))
"""


@pytest.fixture(scope="module", params=IMAGES)
def name(request: pytest.FixtureRequest) -> str:
    """An image's name."""
    return str(request.param)


def archive_of(name: str, say: Say) -> Path:
    return product_archive(name, state_folder(), say=say).path


def container(image: str, command: Sequence[str], *, mounts: Mapping[str, str], **more: Any) -> dict[str, Any]:
    return {
        "name": "container",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "securityContext": RESTRICTED,
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "3Gi"}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
        **more,
    }


def specification(
    *containers: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]] = (), **more: Any
) -> dict[str, Any]:
    return {
        "containers": [dict(each) for each in containers],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}, *volumes],
        "securityContext": {"fsGroup": 1000},
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        **more,
    }


def run(cluster: Cluster, namespace: str, image: str, *arguments: str, timeout_s: float = 120) -> str:
    """Run the image's Python in a pod to its end; return what it printed."""
    made = container(image, [PYTHON, "-I", *arguments], mounts={"memory": "/strongroom/memory"})
    cluster.create(pod("run", namespace, specification(made)))
    phase = cluster.ended("run", namespace, timeout_s=timeout_s)
    printed = cluster.log("run", namespace)
    assert phase == "Succeeded", printed or cluster.describe("pod", "run", namespace)
    return printed


def test_containers_run_without_root_on_a_root_that_nobody_writes_to(
    cluster: Cluster, namespace: str, name: str, say: Say
) -> None:
    image = cluster.import_image(archive_of(name, say))

    found = json.loads(run(cluster, namespace, image, "-c", CONTAINER))

    assert found["ids"] == [1000] * 4
    assert found["name"] == "strongroom"
    assert found["writable"] == ["/strongroom/memory"]
    assert found["owned"] == []


def test_every_library_is_there(cluster: Cluster, namespace: str, name: str, say: Say) -> None:
    image = cluster.import_image(archive_of(name, say))

    assert int(run(cluster, namespace, image, "-c", LIBRARIES, *MODULES[name])) > 40


def test_there_is_no_shell_in_the_services(cluster: Cluster, namespace: str, say: Say) -> None:
    image = cluster.import_image(archive_of("service", say))
    sleeping = container(image, [PYTHON, "-I", "-c", "import time; time.sleep(600)"], mounts={})
    cluster.create(pod("asleep", namespace, specification(sleeping)))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/asleep", f"--namespace={namespace}", "--timeout=60s")

    def in_pod(*command: str) -> str:
        return cluster.kubectl("exec", "asleep", f"--namespace={namespace}", "--", *command)

    assert in_pod(PYTHON, "-I", "-c", "print('python')") == "python\n"
    for shell in SHELLS:
        with pytest.raises(CommandError) as refused:
            in_pod(shell, "-c", "true")
        assert "no such file or directory" in str(refused.value) or "executable file not found" in str(refused.value)


def test_spark_runs_an_application_and_unpacks_its_archives(cluster: Cluster, namespace: str, say: Say) -> None:
    image = cluster.import_image(archive_of(WITH_CACHE, say))

    printed = run(cluster, namespace, image, "-c", SPARK, timeout_s=400)

    assert printed.splitlines()[-1] == "result: 999000 unpacked strongroom 1000"


def test_a_container_is_measured_as_its_archive_says(cluster: Cluster, namespace: str, say: Say) -> None:
    expected = json.loads(archive_of("spark", say).with_name("spark.measurement.json").read_text())

    assert launched(cluster, namespace, say) == expected["entries"]["strongroom.agent"]["mrenclave"]


def test_a_volume_over_code_is_another_measurement(cluster: Cluster, namespace: str, say: Say) -> None:
    """Whoever writes the pod cannot put a library of his own in the place of the image's."""
    expected = json.loads(archive_of("spark", say).with_name("spark.measurement.json").read_text())
    cluster.create(configuration("other", namespace, {"this.py": "import os\n"}))
    mounted = {"name": "other", "mountPath": "/usr/lib/python3.11/this.py", "subPath": "this.py"}

    measured = launched(cluster, namespace, say, mounted=mounted)

    assert len(measured) == 64
    assert measured != expected["entries"]["strongroom.agent"]["mrenclave"]


def launched(cluster: Cluster, namespace: str, say: Say, *, mounted: Mapping[str, str] | None = None) -> str:
    """Start an agent beside a simulated platform, each in its own container; return what was measured of the agent."""
    descriptor = Descriptor(
        role="driver",
        application="00" * 32,
        ticket="a.b.c",
        device=DeviceSetting(kind="simulated-sgx", socket=f"{PLATFORM_FOLDER}/platform.sock"),
        package="/strongroom/package",
        scratch="/strongroom/memory/scratch",
        attestation_service=ServiceAddress(url="https://127.0.0.1:1", certificate_pem=""),
        key_services={"00" * 32: ServiceAddress(url="https://127.0.0.1:1", certificate_pem="")},
        storage={},
        sizes=Sizes(driver_memory_mb=256, executor_memory_mb=256, executor_cores=1, executors=1),
        host="127.0.0.1",
        report="/strongroom/memory/events.jsonl",
        output="/strongroom/memory",
    )
    cluster.create(configuration("descriptor", namespace, {"descriptor.json": descriptor.to_json().decode()}))
    shared = {"memory": "/strongroom/memory", "platform": "/strongroom/platform"}
    platform = container(
        cluster.import_image(archive_of("service", say)),
        [PYTHON, "-I", "-c", PLATFORM],
        mounts={"platform": "/strongroom/platform"},
        name="platform",
    )
    agent = container(
        cluster.import_image(archive_of("spark", say)),
        ["/bin/sh", "-c", AGENT],
        mounts={**shared, "descriptor": "/strongroom/run"},
        name="agent",
    )
    volumes: list[dict[str, Any]] = [
        {"name": "platform", "emptyDir": {"medium": "Memory"}},
        {"name": "descriptor", "configMap": {"name": "descriptor"}},
    ]
    if mounted:
        agent["volumeMounts"].append(dict(mounted))
        volumes.append({"name": mounted["name"], "configMap": {"name": mounted["name"]}})
    cluster.create(pod("measured", namespace, specification(platform, agent, volumes=volumes, hostPID=True)))

    def lines() -> list[str]:
        printed = cluster.log("measured", namespace, container="platform")
        return [line for line in printed.splitlines() if LAUNCHED in line]

    (line,) = cluster.wait_until(lines, "the launch of the agent", 120)
    return line.rpartition(" ")[2]


def test_the_platform_in_a_container_measures_its_own_image_as_well(cluster: Cluster, namespace: str, say: Say) -> None:
    archive = archive_of("service", say)
    platform = container(
        cluster.import_image(archive),
        [PYTHON, "-I", "-c", PLATFORM],
        mounts={"platform": "/strongroom/platform"},
        readinessProbe={"exec": {"command": [PYTHON, "-I", "-c", MEASURE]}, "periodSeconds": 2, "timeoutSeconds": 30},
    )
    volume = {"name": "platform", "emptyDir": {"medium": "Memory"}}
    cluster.create(pod("platform", namespace, specification(platform, volumes=[volume])))
    cluster.kubectl("wait", "--for=condition=Ready", "pod/platform", f"--namespace={namespace}", "--timeout=120s")

    printed = cluster.kubectl("exec", "platform", f"--namespace={namespace}", "--", PYTHON, "-I", "-c", MEASURE)

    assert json.loads(printed) == json.loads(archive.with_name("service.measurement.json").read_text())["entries"]
