"""Upper bounds, in one place. Every parser and every service refuses what lies beyond."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is accepted at most."""

    request_body_bytes: int = 4 << 20
    attest_body_bytes: int = 1 << 20
    evidence_bytes: int = 64 << 10
    initdata_bytes: int = 64 << 10
    runtime_data_bytes: int = 16 << 10
    token_bytes: int = 256 << 10
    policy_text_bytes: int = 64 << 10
    manifest_bytes: int = 64 << 20
    sealed_bytes: int = 16 << 20
    delivered_bytes: int = 64 << 20
    recipients: int = 64
    package_bytes: int = 512 << 20
    endorsement_bytes: int = 1 << 20
    bundle_bytes: int = 32 << 20
    socket_line_bytes: int = 64 << 20
    nonce_lifetime_s: int = 120
    person_token_lifetime_s: int = 300
    clock_skew_s: int = 60


LIMITS = Limits()
