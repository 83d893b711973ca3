"""A team that runs applications on the tests' cluster: services by the chart, a namespace for runs, storage."""

import base64
import contextlib
import io
import json
import secrets
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
from pyarrow import parquet
from tests.support.charts import CHART
from tests.support.installation import Ended, Submission
from tests.support.installed_chart import InstalledChart, service_image
from tests.support.kubernetes.cluster import Cluster, CommandError
from tests.support.kubernetes.images import WITH_CACHE, product_archive
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.site import state_folder
from tests.support.kubernetes.spark_client import java_address

from strongroom.engine.runtime import find_runtime

ROWS: Final = 20_000
"""How many trips a team has."""
SLOW_PARTITIONS: Final = 7
"""How many seconds' work the application has that has a middle."""
SIZES: Final = ("--driver-memory", "700m", "--executor-memory", "700m")
QUICKLY_COMPILED: Final = tuple(
    word
    for role in ("driver", "executor")
    for word in ("--conf", f"spark.{role}.extraJavaOptions=-XX:TieredStopAtLevel=1")
)
"""Options of applications that run for seconds: Java compiles once, and not so well, which takes half the time."""
PLATFORM_FOLDER: Final = "/run/strongroom/platform"
"""Where the chart has the simulated platform by default, and where runs look for it."""
_CLAIM: Final = "data"
_LOADER: Final = "loader"
_SUBMITTER: Final = "strongroom-submitter"
_WAIT: Final = ("--wait", "--timeout=5m")
_CORES: Final = "200m"
"""Of each pod: the tests' node has two."""


@dataclass(kw_only=True)
class Team(InstalledChart):
    """An owner whose services run in the cluster, who is the analyst as well, and a namespace for runs.

    Attributes:
        spark_image: The image of driver and executors, by its digest.
        runs: The namespace of runs.
        account: Folder with the submitter's token and the cluster's authority.
    """

    spark_image: str
    runs: str
    account: Path
    started_runs: list[str] = field(default_factory=list)

    # --- set-up -----------------------------------------------------------------------------------------------------

    def helm(self, verb: str, *more: str) -> str:
        """Install or upgrade the release; the platform is where runs look for it."""
        values = (f"--values={self.files / 'values.yaml'}", f"--set=images.service={self.image.reference}")
        sets = (*values, f"--set=runs.namespaces={{{self.runs}}}", *more)
        return self.cluster.helm(verb, "strongroom", str(CHART), f"--namespace={self.namespace}", *sets, *_WAIT)

    def make_storage(self) -> None:
        """Make the storage that driver and executors see as /data, and a pod through which this machine reaches it."""
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": _CLAIM, "namespace": self.runs},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }
        container = {
            "name": _LOADER,
            "image": self.spark_image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/bash", "-c", "chmod 777 /data; trap exit TERM; while :; do sleep 1 & wait; done"],
            "securityContext": {"runAsUser": 0},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": _LOADER, "namespace": self.runs},
            "spec": {
                "automountServiceAccountToken": False,
                "containers": [container],
                "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": _CLAIM}}],
            },
        }
        self.cluster.apply([claim, pod])
        self.cluster.kubectl("wait", "--for=condition=Ready", f"pod/{_LOADER}", *self.in_runs, "--timeout=120s")

    def make_account(self) -> None:
        """Get the submitter's own token, and the cluster's authority, as files that Spark's options name."""
        config = json.loads(self.cluster.kubectl("config", "view", "--raw", "--flatten", "--minify", "--output=json"))
        authority = config["clusters"][0]["cluster"]["certificate-authority-data"]
        self.account.mkdir(mode=0o700, exist_ok=True)
        (self.account / "ca.crt").write_bytes(base64.b64decode(authority))
        self.renew_token()

    def renew_token(self) -> None:
        """Get a new token of the submitter's."""
        token = self.cluster.kubectl("create", "token", _SUBMITTER, *self.in_runs, "--duration=2h").strip()
        file = self.account / "token"
        file.touch(mode=0o600)
        file.write_text(token)

    # --- commands ---------------------------------------------------------------------------------------------------

    @property
    def in_runs(self) -> tuple[str, str]:
        return ("--namespace", self.runs)

    @cached_property
    def server(self) -> str:
        """The API server's address."""
        config = json.loads(self.cluster.kubectl("config", "view", "--minify", "--output=json"))
        return str(config["clusters"][0]["cluster"]["server"])

    def reaches_services(self) -> bool:
        """Whether both services answer here. After a restart, what forwards to a pod notices with the first call."""
        return all(self.strongroom(*words).status == 0 for words in (("keys", "list"), ("policy", "show")))

    def access(self) -> tuple[str, ...]:
        """Options with which a command finds the cluster, as the submitter."""
        prefix = "--conf=spark.kubernetes.authenticate.submission."
        return (
            "--master",
            f"k8s://{self.server}",
            f"{prefix}oauthTokenFile={self.account / 'token'}",
            f"{prefix}caCertFile={self.account / 'ca.crt'}",
        )

    def placement(self, **other: str) -> tuple[str, ...]:
        """Options that say where and how pods run; `other` are settings with underscores for points."""
        settings = {
            "spark.kubernetes.namespace": self.runs,
            "spark.kubernetes.container.image": self.spark_image,
            "spark.kubernetes.container.image.pullPolicy": "IfNotPresent",
            "spark.kubernetes.driver.request.cores": _CORES,
            "spark.kubernetes.executor.request.cores": _CORES,
            **{
                f"spark.kubernetes.{role}.volumes.persistentVolumeClaim.data.{what}": value
                for role in ("driver", "executor")
                for what, value in (("options.claimName", _CLAIM), ("mount.path", "/data"))
            },
            **{name.replace("_", "."): value for name, value in other.items()},
        }
        return tuple(word for name, value in settings.items() for word in ("--conf", f"{name}={value}"))

    def located(self, submission: Submission) -> Submission:
        """A submission whose datasets lie where pods see them."""

        def place(name: str) -> str:
            return name if "=" in name else f"{name}=/data/{name}"

        return Submission(
            script=submission.script,
            arguments=submission.arguments,
            reads=tuple(map(place, submission.reads)),
            writes=tuple(map(place, submission.writes)),
            options=submission.options,
            sizes=submission.sizes,
        )

    def submit_line(self, submission: Submission, *options: str, **settings: str) -> list[str]:
        """The command line of a submission to the cluster."""
        there = self.located(submission)
        return [
            *("submit", *self.access(), "--deploy-mode", "cluster"),
            *(*self.placement(**settings), *there.sizes, *options, *there.command_line()),
        ]

    def run(self, submission: Submission, *options: str, **settings: str) -> Ended:
        """Submit an application to the cluster, and follow it to its end; what submits it is there already."""
        line = self.submit_line(submission, *options, **settings)
        return self.at_once(*line, timeout_s=900, java=java_address(find_runtime()))

    def run_well(self, submission: Submission, *options: str, **settings: str) -> Ended:
        """Submit an application that must succeed, as users do."""
        ended = self.program(*self.submit_line(submission, *options, **settings), timeout_s=900)
        if ended.status != 0:
            pytest.fail(ended.text + self.what_happened())
        return ended

    def runs_command(self, verb: str, *arguments: str) -> Ended:
        """A command of `strongroom runs` against the cluster."""
        return self.strongroom("runs", verb, *arguments, *self.access(), "--namespace", self.runs)

    # --- storage ----------------------------------------------------------------------------------------------------

    def put(self, folder: Path, name: str) -> None:
        """Copy a folder of this machine to the pods' storage."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(folder, arcname=name)
        self.cluster.kubectl(
            *("exec", "--stdin", _LOADER, *self.in_runs, "--"),
            *("/bin/bash", "-c", "base64 -d | tar -xz -C /data --no-same-owner && chmod -R a+rwX /data/*"),
            stdin=base64.b64encode(buffer.getvalue()).decode(),
        )

    def take(self, name: str, into: Path) -> None:
        """Copy a folder of the pods' storage to this machine."""
        text = self.cluster.kubectl(
            *("exec", _LOADER, *self.in_runs, "--", "/bin/bash", "-c", f"tar -cz -C /data {name} | base64 -w 0")
        )
        with tarfile.open(fileobj=io.BytesIO(base64.b64decode(text)), mode="r:gz") as archive:
            archive.extractall(into, filter="data")

    def files_in(self, folder: str) -> list[str]:
        """The files below a folder of the pods' storage."""
        listing = f'cd /data/{folder} && shopt -s globstar dotglob && for f in **; do test ! -f "$f" || echo "$f"; done'
        return sorted(self.in_loader(listing).split())

    def in_loader(self, command: str) -> str:
        """What a command of the shell prints where the pods' storage is mounted, in their image."""
        return self.cluster.kubectl("exec", _LOADER, *self.in_runs, "--", "/bin/bash", "-c", command)

    def publish(self, dataset: str) -> None:
        """Copy a dataset's ciphertext from the owner's storage to the pods'."""
        self.storage(dataset).mkdir(parents=True, exist_ok=True)
        self.put(self.storage(dataset), dataset)

    def decrypted(self, dataset: str, tables: Sequence[str], into: Path) -> dict[str, list[dict[str, Any]]]:
        """The rows of a dataset's tables as its owner reads them, from the pods' storage."""
        self.take(dataset, self.storage(dataset).parent)
        self.done("dataset", "decrypt", dataset, "--to", str(into / dataset))
        return {table: parquet.read_table(into / dataset / table).to_pylist() for table in tables}

    # --- what is there ----------------------------------------------------------------------------------------------

    def pods(self, run: str = "", *, role: str = "") -> list[dict[str, Any]]:
        """The pods of a run (or all of them), of one role."""
        labels = ["app.kubernetes.io/component"] if not role else [f"app.kubernetes.io/component={role}"]
        labels += [f"strongroom.run={run[:12]}"] if run else ["strongroom.run"]
        return self.cluster.find("pods", self.runs, selector=",".join(labels))

    def driver_of(self, run: str) -> dict[str, Any]:
        """The driver's pod of a run."""
        return self.cluster.get("pod", f"strongroom-{run[:12]}-driver", self.runs)

    def running(self, run: str, *, role: str = "executor") -> list[str]:
        """The names of a run's pods that run."""
        pods = self.pods(run, role=role)
        return [
            pod["metadata"]["name"]
            for pod in pods
            if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
        ]

    def objects_of_runs(self) -> list[str]:
        """Every object of any run in the namespace, as KIND/NAME."""
        kinds = ("pods", "configmaps", "services", "networkpolicies", "secrets")
        found = [each for kind in kinds for each in self.cluster.find(kind, self.runs)]
        mine = {"kube-root-ca.crt", _LOADER, "strongroom-runs"}
        return sorted(
            f"{each['kind']}/{each['metadata']['name']}" for each in found if each["metadata"]["name"] not in mine
        )

    def assert_nothing_left_there(self) -> None:
        """Check that no object of any run is left in the namespace."""
        self.cluster.wait_until(lambda: self.objects_of_runs() == [], "the end of all runs' objects", 120)

    def clear(self) -> None:
        """Delete every run in the namespace."""
        if not self.objects_of_runs():
            return
        for kind in ("pods", "configmaps"):
            self.cluster.delete_all(kind, self.runs, selector="strongroom.run")
        self.assert_nothing_left_there()

    def what_happened(self) -> str:
        """What the cluster tells of the runs, for a test that failed."""
        told = [""]
        for pod in self.pods():
            name = pod["metadata"]["name"]
            told.append(self.cluster.describe("pod", name, self.runs)[-3000:])
            with contextlib.suppress(CommandError):
                told.append("\n".join(line[:300] for line in self.cluster.log(name, self.runs).splitlines()[-30:]))
        return "\n".join(told)

    @contextmanager
    def under_way(
        self, submission: Submission, *options: str, executors: int = 1, **settings: str
    ) -> Iterator["UnderWay"]:
        """Submit an application; the block begins when its first tasks run on so many executors."""
        before = {run["metadata"]["name"] for run in self.pods(role="driver")}
        with self.started(*self.submit_line(submission, *options, **settings)) as process:
            try:
                made = self.cluster.wait_until(
                    lambda: (
                        [pod for pod in self.pods(role="driver") if pod["metadata"]["name"] not in before]
                        or process.poll() is not None
                    ),
                    "a driver's pod",
                    120,
                )
                if made is True:
                    pytest.fail(str(process.communicate()) + self.what_happened())
                run = str(made[0]["metadata"]["annotations"]["strongroom.run-id"])
                self.cluster.wait_until(
                    lambda: len(self.running(run)) >= executors or process.poll() is not None, "the executors", 240
                )
                yield UnderWay(team=self, run=run, process=process)
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)


@dataclass(frozen=True, kw_only=True)
class UnderWay:
    """A run in its middle.

    Attributes:
        team: Whose it is.
        run: Its id.
        process: The submitting command.
    """

    team: Team
    run: str
    process: "subprocess.Popen[str]"

    def ended(self, timeout_s: float = 600) -> Ended:
        """Wait for the submitting command's end."""
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return Ended(status=self.process.returncode, stdout=stdout, stderr=stderr)

    def wait_for_step(self, step: str, *, executors: int = 1, timeout_s: float = 240) -> None:
        """Wait until so many executors' agents have told a step."""

        def told() -> bool:
            logs = [self._log(name) for name in self.team.running(self.run)]
            return sum(f'"step":"{step}"' in log for log in logs) >= executors

        self.team.cluster.wait_until(told, f"step {step} in {executors} executors", timeout_s)

    def _log(self, name: str) -> str:
        with contextlib.suppress(CommandError):
            return self.team.cluster.log(name, self.team.runs)
        return ""


@contextmanager
def team_on(cluster: Cluster, root: Path, *, trips: Path, say: Say, options: tuple[str, ...] = ()) -> Iterator[Team]:
    """A team whose services are installed and reached, with the datasets `trips` and `report`."""
    spark = product_archive(WITH_CACHE, state_folder(), say=say)
    for name in ("home", "tmp"):
        (root / name).mkdir(exist_ok=True)
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": f"{root}/home", "TMPDIR": f"{root}/tmp"}
    mark = secrets.token_hex(3)
    measured = ("--measurements", str(spark.path.with_name(f"{WITH_CACHE}.measurement.json")))
    team = Team(
        root=root,
        environment=environment,
        cluster=cluster,
        image=service_image(cluster, say=say),
        namespace=f"strongroom-{mark}",
        platform_namespace=f"platform-{mark}",
        options=(*measured, *options),
        spark_image=cluster.import_image(spark.path),
        runs=cluster.new_namespace("runs"),
        account=root / "account",
    )
    say("runs: installing the services")
    try:
        team.write_values()
        team.apply_objects()
        team.helm("install")
        team.make_account()
        team.make_storage()
        with team.reached():
            for name in ("trips", "report"):
                team.done("dataset", "create", name)
            team.done("dataset", "encrypt", "trips", str(trips))
            for name in ("trips", "report"):
                team.publish(name)
            yield team
    finally:
        team.remove()
        cluster.delete("namespace", team.runs, wait=False)


def counts_of(team: Team, path: str, into: Path) -> list[int]:
    """What an application wrote that counts the trips of each partition."""
    return [row["trips"] for row in team.decrypted("report", [path], into)[path]]


def run_plainly(script: Path, *arguments: str, options: Sequence[str], scratch: Path) -> None:
    """Run an application under plain Spark on this machine."""
    runtime = find_runtime()
    environment = {
        "HOME": str(scratch),
        "JAVA_HOME": str(runtime.java_home),
        "PATH": "/usr/bin:/bin",
        "PYSPARK_PYTHON": str(runtime.python),
        "SPARK_HOME": str(runtime.spark_home),
        "SPARK_LOCAL_DIRS": str(scratch),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    of_machine = ("--master", "local[2]", "--conf", "spark.ui.enabled=false")
    command = [runtime.spark_home / "bin/spark-submit", *of_machine, *options, script, *arguments]
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def trips_folder(trips: ModuleType, folder: Path, *, rows: int) -> Path:
    """A folder of made-up trips as plain Parquet, in four files."""
    trips.write_trips(trips.generate(rows, seed=3), folder, rows_per_file=rows // 4)
    return folder
