"""Both sides on Kubernetes: what a person types on each, into the same namespace, for the same pods.

Plain is `spark-submit` of the same Spark, in cluster mode. Its pods run the same image, without the agent: a script
does in them what the entry point of Spark's own images does. Neither side has Java's ahead-of-time cache, because the
image has none.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deploy.images import debian, system
from pod_sessions import Agent, PodSession, read_agent, read_client
from sessions import EXECUTOR_CORES, HERE, TIMED, BenchmarkError, now, read_session
from tests.support.installation import Submission
from tests.support.kubernetes.cluster import CommandError
from tests.support.kubernetes.pods import RESTRICTED
from tests.support.kubernetes.processes import bound
from tests.support.kubernetes.runs import Team

from strongroom.cluster.kubernetes.template import USER_ID
from strongroom.engine.runtime import find_runtime

HEAP: Final = "700m"
"""Of the driver and of each executor."""
OVERHEAD: Final = "896m"
"""Memory of a pod beside the heap: what Strongroom reckons for this heap, given to both sides by name."""
CORES: Final = "200m"
"""What each pod asks for; it may use all that the node has."""
PLAIN: Final = "plain"
PROTECTED: Final = "protected"

_ENTRYPOINT: Final = HERE / "plain_entrypoint.sh"
_ON_STORAGE: Final = f"/data/{PLAIN}"
"""Where the plain pods find their entry point and the application."""
_PLAIN_ACCOUNT: Final = "plain-spark"
_PLAIN_DRIVER: Final = "plain-driver"
_TIMEOUT_S: Final = 900.0
_TOLD: Final = 2000
_SETTINGS: Final[Mapping[str, str]] = {
    "spark.driver.memoryOverhead": OVERHEAD,
    "spark.executor.memoryOverhead": OVERHEAD,
    "spark.kubernetes.driver.request.cores": CORES,
    "spark.kubernetes.executor.request.cores": CORES,
    "spark.kubernetes.executor.deleteOnTermination": "false",  # what agents told is read when the run is over
}
"""What both sides are told by `--conf`, beside where their pods run."""


def sizes(executors: int) -> tuple[str, ...]:
    """Return the options of both sides that say how large a run is."""
    memory = ("--driver-memory", HEAP, "--executor-memory", HEAP)
    return (*memory, "--num-executors", str(executors), "--executor-cores", str(EXECUTOR_CORES))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectedPods:
    """`strongroom submit`; the application is bound to a dataset, as every run is.

    Attributes:
        team: Whose services, namespace and storage it is.
    """

    team: Team

    @property
    def name(self) -> str:
        """The side's name in the results."""
        return PROTECTED

    def prepare(self) -> None:
        """Have the owner approve the application."""
        self.team.approve(_submission())

    def run(self, *, executors: int, number: int) -> PodSession:
        """Submit, and wait for the end; nothing of the run is left in the cluster.

        Raises:
            BenchmarkError: The run failed.
        """
        self.team.renew_token()
        with _cleared(self.team):
            started = now()
            ended = self.team.program(*self.team.submit_line(_submission(), *sizes(executors), **_SETTINGS))
            if ended.status != 0:
                raise BenchmarkError(f"strongroom submit: {ended.text[-_TOLD:]}{self.team.what_happened()}")
            session = read_session(
                self.team.output_of(ended), side=self.name, executors=executors, number=number, started=started
            )
            agents = list(self._agents(ended.run_id, started=started))
        if [agent.role for agent in agents].count("executor") != executors:
            raise BenchmarkError(f"not every agent's log was found: {[agent.role for agent in agents]}")
        return PodSession(session=session, agents=agents, client_s=read_client(ended.stdout))

    def _agents(self, run: str, *, started: float) -> Iterator[Agent]:
        for role in ("driver", "executor"):
            for pod in self.team.pods(run, role=role):
                named = ("logs", pod["metadata"]["name"], *self.team.in_runs, "--timestamps")
                agent = read_agent(self.team.cluster.kubectl(*named), role=role, started=started)
                if agent is not None:
                    yield agent


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainPods:
    """`spark-submit` as Spark has it.

    Attributes:
        team: In whose namespace it runs, and by whose account it submits.
        folder: A folder for pod templates, which exists.
    """

    team: Team
    folder: Path

    @property
    def name(self) -> str:
        """The side's name in the results."""
        return PLAIN

    def prepare(self) -> None:
        """Make the driver's account, and bring the application to where pods see it."""
        self.team.cluster.apply(account_objects(self.team.runs))
        on_storage = self.folder / PLAIN
        on_storage.mkdir()
        for file in (_ENTRYPOINT, TIMED):
            shutil.copyfile(file, on_storage / file.name)
        self.team.put(on_storage, PLAIN)

    def run(self, *, executors: int, number: int) -> PodSession:
        """Submit, and wait for the end; nothing of the run is left in the cluster.

        Raises:
            BenchmarkError: The run failed.
        """
        self.team.renew_token()
        with _cleared(self.team):
            command = self.command(executors)
            started = now()
            said = self._submit(command)
            cluster, place = self.team.cluster, self.team.runs
            try:
                phase, log = cluster.phase(_PLAIN_DRIVER, place), cluster.log(_PLAIN_DRIVER, place)
            except CommandError as error:
                raise BenchmarkError(f"spark-submit: {said[-_TOLD:]}\n{error}") from error
            if phase != "Succeeded":
                described = cluster.describe("pod", _PLAIN_DRIVER, place)[-_TOLD:]
                raise BenchmarkError(f"the plain driver: {log[-_TOLD:]}\n{described}")
        session = read_session(log, side=self.name, executors=executors, number=number, started=started)
        return PodSession(session=replace(session, printed=()))

    def command(self, executors: int, *more: str) -> list[str]:
        """Return the command line.

        Args:
            executors: How many.
            more: Further options.
        """
        chosen = {
            **_SETTINGS,
            "spark.kubernetes.authenticate.driver.serviceAccountName": _PLAIN_ACCOUNT,
            "spark.kubernetes.authenticate.executor.serviceAccountName": "strongroom-executor",
            "spark.kubernetes.driver.pod.name": _PLAIN_DRIVER,
            "spark.kubernetes.driver.podTemplateFile": str(self._template()),
            "spark.kubernetes.executor.podTemplateFile": str(self._template()),
            "spark.pyspark.python": system.PYTHON,
            "spark.ui.enabled": "false",
        }
        return [
            str(find_runtime().spark_home / "bin" / "spark-submit"),
            *(*self.team.access(), "--deploy-mode", "cluster", "--name", PLAIN),
            *(*self.team.placement(**chosen), *sizes(executors), *more),
            *(f"local://{_ON_STORAGE}/{TIMED.name}", "nothing-to-read", "nothing-to-write"),
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment of the command: Spark's and Java's places, nothing of this process's."""
        runtime = find_runtime()
        return {
            "HOME": str(self.folder),
            "JAVA_HOME": str(runtime.java_home),
            "LANG": "C.UTF-8",
            "PATH": "/usr/bin:/bin",
            "SPARK_HOME": str(runtime.spark_home),
        }

    def _submit(self, command: list[str]) -> str:
        """Run the command to its end, and return what it said; the driver's pod says how the run ended."""
        done = subprocess.run(
            bound(command),
            env=self.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return done.stdout

    def _template(self) -> Path:
        path = self.folder / "template.json"
        path.write_text(json.dumps(pod_template()), encoding="utf-8")
        return path


def pod_template() -> dict[str, Any]:
    """Return the template of the plain pods: they may do as little as the others, and their scratch is memory, too."""
    packages = system.packages_of(Path("/"), python=debian.PYTHON)
    variables = {
        "JAVA_HOME": f"/{system.ENVIRONMENT}/share/strongroom/java",
        "SPARK_HOME": str(packages / "pyspark"),
    }
    scratch = "spark-local-dir-1"  # by this name Spark takes it for its files, as on the other side
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "spec": {
            "containers": [
                {
                    "name": "spark",
                    "command": ["/bin/bash", f"{_ON_STORAGE}/{_ENTRYPOINT.name}"],
                    "env": [{"name": name, "value": value} for name, value in variables.items()],
                    "securityContext": RESTRICTED,
                    "volumeMounts": [{"name": scratch, "mountPath": "/tmp"}],  # noqa: S108 - the pod's own
                    "workingDir": "/tmp",  # noqa: S108
                }
            ],
            "securityContext": {"fsGroup": USER_ID, "runAsGroup": USER_ID, "runAsUser": USER_ID},
            "volumes": [{"name": scratch, "emptyDir": {"medium": "Memory"}}],
        },
    }


def account_objects(namespace: str) -> list[dict[str, Any]]:
    """Return the account of plain drivers, with the rights that Spark's documentation asks for."""
    metadata = {"name": _PLAIN_ACCOUNT, "namespace": namespace}
    named = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": _PLAIN_ACCOUNT}
    what = ["pods", "services", "configmaps", "persistentvolumeclaims"]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata,
            "rules": [{"apiGroups": [""], "resources": what, "verbs": ["*"]}],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": named,
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
    ]


@contextmanager
def _cleared(team: Team) -> Iterator[None]:
    """Delete whatever the block ran, and wait until nothing of it is left: it would run beside what comes next."""
    try:
        yield
    finally:
        team.cluster.delete("pod", _PLAIN_DRIVER, team.runs)
        team.clear()


def _submission() -> Submission:
    """Return the application of the protected side; sizes are given beside it."""
    return Submission(script=TIMED, arguments=("strongroom://trips", "nothing-to-write"), sizes=())
