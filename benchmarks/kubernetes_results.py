"""What the benchmark on Kubernetes publishes: JSON, and a page in Markdown."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from busy import STOLEN
from figures import Spread
from pod_sessions import OPENED, Agent, PodSession
from results import judged, machine, shares, table
from sessions import EXECUTOR_CORES, BenchmarkError, Session

_FIRST_TASK: Final = 1.15
_ATTESTATION: Final = ("evidence verified and appraised", "keys released")
_STEPS: Final = (
    ("the TEE is launched: the platform measures the container", "TEE launched"),
    ("the application is copied and measured", "application measured"),
    ("nonce, quote, verification, appraisal", _ATTESTATION[0]),
    ("joining the run: release of the run's secret", _ATTESTATION[1]),
    ("write keys, manifests read and opened", OPENED),
)
"""What an agent does before it starts Spark: for people, and in the agent's words."""
_CLIENT: Final = (
    ("submit", "`strongroom submit` has packed the application"),
    ("policy", "… has verified the services and signed the ticket"),
    ("executors", "… has had Spark make the driver's pod, and let it start"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that was measured.

    Attributes:
        sessions: Every session that counts, of both sides.
        executors: How many each run had.
        cluster: Which cluster it was, for people.
        heap, overhead, cores: What each pod got.
    """

    sessions: Sequence[PodSession]
    executors: int
    cluster: str
    heap: str
    overhead: str
    cores: str

    def values(self, side: str, value: Callable[[Session], float]) -> list[float]:
        """Return a value of each round of a side, by the rounds' order."""
        found = sorted((it.session.round, value(it.session)) for it in self.sessions if it.session.side == side)
        if not found:
            raise BenchmarkError(f"nothing was measured of the {side} side")
        return [each for _, each in found]

    def ratio(self, value: Callable[[Session], float]) -> float:
        """Return the median of the protected side over the plain side's."""
        return median(self.values("protected", value)) / median(self.values("plain", value))

    def agents(self, role: str) -> list[Agent]:
        """Return all agents of a role."""
        return [agent for it in self.sessions for agent in it.agents if agent.role == role]


def publish(measured: Measured, folder: Path) -> None:
    """Write `kubernetes.json` and `kubernetes.md`."""
    first_task = {
        "plain_s": median(measured.values("plain", _first_task)),
        "protected_s": median(measured.values("protected", _first_task)),
        "protected_over_plain": round(measured.ratio(_first_task), 3),
        "rounds": len(measured.values("protected", _first_task)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    published = {"first_task": first_task, **asdict(measured)}
    (folder / "kubernetes.json").write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
    (folder / "kubernetes.md").write_text(page(measured), encoding="utf-8")


def page(measured: Measured) -> str:
    """Return the page."""
    limit = judged("first task: protected / plain", measured.ratio(_first_task), _FIRST_TASK, "")
    return f"""# From the command to the first task on Kubernetes

Written by `make bench-kubernetes`; every session is in [kubernetes.json](kubernetes.json). **The TEEs are simulated**:
this is the cost of submitting, attesting, releasing keys and Strongroom's own processes. That real enclaves and
confidential virtual machines take time to start, and measure their memory, is not in it.

## The command to the first task
{_count(measured.executors)}, a pod each, and a driver's pod; seconds since the command was given, medians.

{_start_table(measured)}

The last column is the smallest and the largest ratio of two runs of one round.

{table(("what", "measured", "at most", ""), [limit])}

## What an executor's agent does before Spark starts
{_agent_table(measured)}

The agents' own words, by their pods' logs. All executors of a run do it at once.

## Where the time of the protected side goes
{_moments_table(measured)}

By the node's clock, which has the agents' words a moment after they were said. Before its first step an agent's process
starts and unpacks the application. What the submitting command did it says itself, without its own start.

## How it was measured
{_method(measured)}
"""


def _first_task(session: Session) -> float:
    return session.first_task_s


def _initialisation(session: Session) -> float:
    return session.initialisation_s


def _start_table(measured: Measured) -> str:
    rows = []
    for name, value in (("the first task has ended", _first_task), ("every executor is there", _initialisation)):
        plain, protected = measured.values("plain", value), measured.values("protected", value)
        pairs = [ours / theirs for ours, theirs in zip(protected, plain, strict=True)]
        figures = (median(plain), median(protected), measured.ratio(value))
        rows.append((name, *(f"{it:.2f}" for it in figures), f"{min(pairs):.2f} to {max(pairs):.2f}"))
    return table(("until", "plain", "protected", "protected / plain", "in one round"), rows)


def _agent_table(measured: Measured) -> str:
    agents = measured.agents("executor")

    def row(name: str, seconds: Sequence[float]) -> tuple[str, str, str]:
        spread = Spread.of(seconds)
        return name, f"{spread.p50_ms:.0f} ms", f"{spread.p95_ms:.0f} ms"

    rows = [row(name, [agent.ms_of(detail) / 1000 for agent in agents]) for name, detail in _STEPS]
    together = [agent.ms_of(*_ATTESTATION) / 1000 for agent in agents]
    whole = [agent.opened_s - agent.begun_s for agent in agents]
    rows += [
        row("**attestation and release together**", together),
        row("from its first step until Spark may start", whole),
    ]
    return table((f"{len(agents)} executors", "median", "95%"), rows)


def _moments_table(measured: Measured) -> str:
    return table(("what", "seconds", ""), _moments([it for it in measured.sessions if it.agents]))


def _moments(protected: Sequence[PodSession]) -> Iterator[tuple[str, str, str]]:
    for step, name in _CLIENT:
        told = [it.client_s[step] for it in protected if step in it.client_s]
        if told:
            yield name, f"{median(told):.2f}", "took"

    def since(name: str, value: Callable[[PodSession], float]) -> tuple[str, str, str]:
        return name, f"{median(map(value, protected)):.2f}", "since the command"

    def of(role: str, session: PodSession) -> list[Agent]:
        return [agent for agent in session.agents if agent.role == role]

    yield since("the driver's agent begins its first step", lambda it: of("driver", it)[0].begun_s)
    yield since("… has its keys, and starts Spark", lambda it: of("driver", it)[0].opened_s)
    yield since("the first executor's agent begins", lambda it: min(each.begun_s for each in of("executor", it)))
    yield since("the last one begins", lambda it: max(each.begun_s for each in of("executor", it)))
    yield since("… has its keys, and starts Spark", lambda it: max(each.opened_s for each in of("executor", it)))
    yield since("the first task has ended", lambda it: it.session.first_task_s)


def _method(measured: Measured) -> str:
    sessions = [it.session for it in measured.sessions]
    rounds = max(session.round for session in sessions)
    return f"""- {measured.cluster}.
- {_count(rounds, "round")}, sides in turn, the order reversed every other round, after a round of each side that does
  not count; the next run starts when nothing of the last one is left. `benchmarks/timed.py` runs on both sides, reads
  no data, and says when its first task has ended: that is counted in Java, on an executor. It needs clocks that agree,
  the nodes' and this machine's.
- Plain: `spark-submit --master k8s://… --deploy-mode cluster` of the same Spark, as it comes, launcher and its Java
  included. Its pods run **the same image without the agent**; `benchmarks/plain_entrypoint.sh` does in them what the
  entry point of Spark's own images does: `spark-submit` in client mode, the executor's class. The application lies on
  the pods' storage (`local://`).
- Protected: `strongroom submit --master k8s://… --deploy-mode cluster`. It packs the application, verifies the services
  (reached by `kubectl port-forward`), signs, has the same Spark make the driver's pod, and sends the application.
  It is bound to a dataset, whose manifest every agent opens; approved before. Services, one replica each, and
  simulated platform run in the cluster, by the chart.
- The same on both sides: image, Spark, Java, no ahead-of-time cache for Java (the published image has none), account
  and namespace of who submits, pod sizes ({measured.heap} of heap, {measured.overhead} beside it, {measured.cores} of
  a core asked for and no limit), {EXECUTOR_CORES} core for tasks in each executor, scratch in memory, a read-only root
  file system, no privileges. Spark waits on both sides until four fifths of the executors are there before it runs a
  task.
- What each side has for itself: plain has Java's and Spark's defaults, Spark's messages in the pods' logs, and no
  encryption or authentication between its pods; the protected side has Strongroom's, messages in files in scratch, and
  all of that.
- Just before the sessions, others, the idle cluster among them, used
  {shares([session.busy_before for session in sessions])} of this machine. Of the processor
  time wanted in them, other virtual machines had {shares([session.stolen for session in sessions])};
  a session that lost more than {STOLEN:.0%} was run once more, and the less disturbed one counts.
- Machine: {machine()}."""


def _count(number: int, what: str = "executor") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
