"""What one session on Kubernetes is, and what the agents in its pods told."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sessions import Session

from strongroom.base.errors import FormatError
from strongroom.wire.events import Event, StepDone, parse_event

OPENED = "manifests opened"
"""What an agent says last, before it starts Spark."""
_CLIENT_LINE = re.compile(r"step +[1-8] (?P<step>[a-z]+) +client +(?P<seconds>[0-9]+\.[0-9]+) s ")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStep:
    """Something that an agent did.

    Attributes:
        detail: What, in the agent's words.
        ms: How long it took, as the agent says.
        at_s: When the node had its word for it, in seconds since the command.
    """

    detail: str
    ms: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent: the first process of a driver's or an executor's pod.

    Attributes:
        role: "driver" or "executor".
        steps: What it did, in order.
    """

    role: str
    steps: Sequence[AgentStep]

    @property
    def begun_s(self) -> float:
        """When its first step began, in seconds since the command; unpacking the package comes before that."""
        first = self.steps[0]
        return first.at_s - first.ms / 1000

    @property
    def opened_s(self) -> float:
        """When it had its keys and opened manifests, so that Spark could start, in seconds since the command."""
        return next(step.at_s for step in self.steps if step.detail == OPENED)

    def ms_of(self, *details: str) -> int:
        """Return how long steps took together, in milliseconds."""
        return sum(step.ms for step in self.steps if step.detail in details)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSession:
    """A run on the cluster, from the command to the end.

    Attributes:
        session: What the application told.
        agents: What its agents told, where there are agents.
        client_s: How long the steps of the submitting command took, where it says so, in seconds.
    """

    session: Session
    agents: Sequence[Agent] = ()
    client_s: Mapping[str, float] = field(default_factory=dict)


def read_agent(log: str, *, role: str, started: float) -> Agent | None:
    """Read what an agent told by its pod's log.

    Args:
        log: The log, as `kubectl logs --timestamps` prints it.
        role: The pod's role.
        started: When the command was given, in seconds.

    Returns:
        The agent; None if it did not get as far as opening manifests.
    """
    steps = tuple(
        AgentStep(detail=event.detail, ms=event.elapsed_ms, at_s=round(at - started, 3))
        for at, event in _events(log.splitlines())
        if isinstance(event, StepDone)
    )
    return Agent(role=role, steps=steps) if any(step.detail == OPENED for step in steps) else None


def read_client(output: str) -> dict[str, float]:
    """Return how long the steps of `strongroom submit` itself took, in seconds, by the lines that it printed."""
    found = (_CLIENT_LINE.match(line) for line in output.splitlines())
    return {match["step"]: float(match["seconds"]) for match in found if match}


def _events(lines: Sequence[str]) -> Iterator[tuple[float, Event]]:
    for line in lines:
        moment, _, text = line.partition(" ")
        try:
            yield datetime.fromisoformat(moment).timestamp(), parse_event(text)
        except (FormatError, ValueError):  # a warning of the agent's, or a line of Java's
            continue
