"""Targets about who a TEE is: what a pod was launched with, and who its service account's token says it is."""

import functools
import hashlib
import json
import tomllib
from typing import Any

from tests.fuzz.samples import signer
from tests.fuzz.service import SERVICE, AnsweredNoError
from tests.fuzz.target import Target, of_text
from tests.support.amd import amd_bench
from tests.support.key_service import MovableClock
from tests.support.platform import NOW
from tests.support.workloads import FakeCluster

from strongroom.attestation.evidence.initdata import Initdata, parse_initdata, render_initdata
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    LimitError,
    VerificationError,
)
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.services.workloads import VerifiedWorkload, WorkloadIssuers

_KEY_SERVICE = "5a" * 32


def _initdata(data: bytes) -> Initdata:
    """Read it, and have a TOML parser read the same."""
    parsed = parse_initdata(data)
    assert tomllib.loads(data.decode())["data"] == dict(parsed.entries)
    assert (parsed.template is None) == (parsed.image is None)
    return parsed


def _initdata_samples() -> list[bytes]:
    image = "registry.example/spark@sha256:" + "c3" * 32
    policy = f'package agent_policy\nstrongroom_image := "{image}"\ndefault AllowRequests := false\n'
    entries = {"policy.rego": policy, "cdh.toml": "socket = 'unix:///run/cdh.sock'\n"}
    bare = render_initdata({}, application="a1" * 32, algorithm="sha512")
    return [render_initdata(entries, application="a1" * 32), bare]


def _attest(document: bytes) -> Any:
    """Launch a guest with any document: what is refused is refused for what it says."""
    chip = amd_bench()
    report = chip.amd.sign(chip.report(host_data=hashlib.sha256(document).digest()))
    chain = chip.endorsements().certificate_chain.encode()
    evidence = canonical_json({"SnpReport": to_b64url(report), "VcekCertChain": to_b64url(chain)})
    body = parse_json_object(SERVICE().body("SevSnpVm", evidence))
    body["initTimeData"] = {"data": to_b64url(document), "dataType": "TOML"}
    return SERVICE().attest("SevSnpVm", canonical_json(body))


@functools.cache
def _cluster() -> FakeCluster:
    return FakeCluster(key_service=_KEY_SERVICE, key=signer())


@functools.cache
def _issuers() -> WorkloadIssuers:
    return WorkloadIssuers([_cluster().settings()], key_service=_KEY_SERVICE, clock=MovableClock())


def _token(text: str) -> VerifiedWorkload:
    return _issuers().verify(text)


def _tokens() -> list[bytes]:
    return [_cluster().token(now=NOW).encode()]


def _claims(data: bytes) -> VerifiedWorkload:
    """Have the cluster sign any claims: what is refused is refused for what they say."""
    return _token(sign_jws(data, key=signer(), header={"kid": _cluster().kid}))


def _keys(data: bytes) -> Any:
    settings = _cluster().settings(jwks=data.decode(errors="replace"))
    return WorkloadIssuers([settings], key_service=_KEY_SERVICE, clock=MovableClock())


def _key_sets() -> list[bytes]:
    keys = json.loads(_cluster().jwks())["keys"]
    return [_cluster().jwks().encode(), json.dumps({"keys": [*keys, {"kty": "oct", "k": "AAAA", "kid": "b"}]}).encode()]


_VERIFIED = (FormatError, LimitError, VerificationError, AuthenticationError)

IDENTITY: tuple[Target, ...] = (
    Target(name="initdata", parse=_initdata, samples=_initdata_samples, refusals=(FormatError, LimitError)),
    Target(
        name="attest-initdata",
        parse=_attest,
        samples=lambda: _initdata_samples()[:1],
        refusals=(AnsweredNoError,),
    ),
    Target(name="workload-token", parse=of_text(_token), samples=_tokens, refusals=_VERIFIED),
    Target(
        name="workload-claims",
        parse=_claims,
        samples=lambda: [unverified_payload(_cluster().token(now=NOW))],
        refusals=_VERIFIED,
    ),
    Target(name="workload-keys", parse=_keys, samples=_key_sets, refusals=(ConfigurationError,)),
)
