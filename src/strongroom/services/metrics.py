"""What the attestation service counts, as Prometheus reads it. No label holds a claim's value or a caller's text."""

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from strongroom.base.errors import DisagreementError, RefusedError, StrongroomError, UnavailableError
from strongroom.services.errors import Reply

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(slots=True)
class AttestCall:
    """What is known of an attest call while it runs."""

    is_draft: bool = False


class AttestationMetrics:
    """The counters of one service; each service has its own registry."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "strongroom_http_requests_total", "HTTP requests answered", ["route", "method", "status"], registry=registry
        )
        self._limited = Counter(
            "strongroom_http_rate_limited_total", "HTTP requests refused for their rate", registry=registry
        )
        self._attestations = Counter(
            "strongroom_attestations_total",
            "Attest calls by evidence type and outcome: signed, draft, refused (by policy), rejected, failed",
            ["type", "outcome"],
            registry=registry,
        )
        self._refusals = Counter(
            "strongroom_attestation_refusals_total",
            "Attest calls without a result, by evidence type and error code",
            ["type", "reason"],
            registry=registry,
        )
        self._duration = Histogram(
            "strongroom_attestation_duration_seconds",
            "Time to verify, appraise and sign",
            ["type"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._disagreements = Counter(
            "strongroom_verifier_disagreements_total",
            "Evidence about which the two verifiers disagree: look at each one",
            ["type"],
            registry=registry,
        )
        self._changes = Counter(
            "strongroom_policy_changes_total",
            "Changes of policies, policy certificates and signing keys, by call and outcome",
            ["call", "outcome"],
            registry=registry,
        )

    def request(self, *, route: str, method: str, status: int) -> None:
        """Count an answered request; `route` is one of our paths, `method` one of HTTP's."""
        self._requests.labels(route, method, str(status)).inc()

    def rate_limited(self) -> None:
        """Count a request that was refused for its rate."""
        self._limited.inc()

    @contextlib.contextmanager
    def attestation(self, kind: str) -> Generator[AttestCall, None, None]:
        """Count and time one attest call.

        Args:
            kind: A known evidence type.
        """
        started = time.perf_counter()
        call, outcome = AttestCall(), "failed"
        try:
            yield call
            outcome = "draft" if call.is_draft else "signed"
        except StrongroomError as error:
            outcome = _outcome(error)
            self._refusals.labels(kind, error.code).inc()
            if isinstance(error, DisagreementError):
                self._disagreements.labels(kind).inc()
            raise
        finally:
            self._attestations.labels(kind, outcome).inc()
            self._duration.labels(kind).observe(time.perf_counter() - started)

    @contextlib.contextmanager
    def change(self, call: str) -> Generator[None, None, None]:
        """Count one call that changes something; `call` names it."""
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except StrongroomError as error:
            outcome = error.code
            raise
        finally:
            self._changes.labels(call, outcome).inc()

    def reply(self) -> Reply:
        """Answer `GET /metrics` in Prometheus's text format."""
        return Reply(body=generate_latest(self._registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _outcome(error: StrongroomError) -> str:
    match error:
        case RefusedError():
            return "refused"
        case UnavailableError():
            return "failed"
        case _:
            return "rejected"
