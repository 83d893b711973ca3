"""The two DCAP verifiers against each other: every byte of a quote, and every ninth of its collateral, edited once.

For each edit both refuse, or both accept and found the same, or only dcap-qvl accepts, for a reason in `DOCUMENTED`.
That ours accepts what dcap-qvl refuses, or finds something else, never happens; in production it would be a refusal and
an alert (`require_agreement`).
"""

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from tests.support.platform import NOW, Bench

from strongroom.attestation.endorsements.dcap import DcapEndorsements, parse_endorsements
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.dcap import VerifiedQuote
from strongroom.attestation.verifier.sgx import verify_sgx_quote
from strongroom.attestation.verifier.tdx import verify_tdx_quote
from strongroom.base.errors import DisagreementError, StrongroomError
from strongroom.crypto import x509
from strongroom.simulation.platform import TEE_TCB_SVN

DOCUMENTED = {
    "embedded root": "dcap-qvl never reads the root that the quote carries; we demand that it is the trusted one",
    "length": "dcap-qvl leaves out bytes behind a length that was made shorter; we demand that lengths fill the quote",
    "padding": "dcap-qvl leaves out what follows the quote; we let only zeros follow",
    "kind of certification data": "dcap-qvl does not look at the outer kind of a newer quote; we demand kind 6",
    "pck_crl_issuer_chain": "dcap-qvl takes the PCK list's issuer from the quote; we demand that both are the same",
    "root of a signer": "dcap-qvl never reads the root behind the signer of TCB info and QE identity; we demand it",
    "spelling of hexadecimal": "dcap-qvl reads upper-case digits as well; we have one spelling",
}
"""Where only dcap-qvl accepts, and why that is right."""

COLLATERAL_STEP = 9
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_NEWER_SIGNATURE = 4 + 64 + 64
"""Bytes from the length of a quote's signature data to the kind of certification data in it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Good evidence, and the time at which it held."""

    quote: bytes
    collateral: bytes
    roots: TrustedRoots
    now: datetime
    verify: Callable[..., VerifiedQuote[Any]]
    body_end: int
    step: int = 1

    def ours(self, quote: bytes, collateral: bytes) -> VerifiedQuote[Any]:
        endorsements = parse_endorsements(collateral)
        return self.verify(quote, trusted_roots=self.roots, endorsements=endorsements, now=self.now)

    def theirs(self, quote: bytes, collateral: bytes) -> bool:
        seconds = int(self.now.timestamp())
        policy = dcap_qvl.QuotePolicy.claims_only(seconds)
        verifier = dcap_qvl.QuoteVerifier(self.roots.roots[0].anchor_der)
        try:
            endorsements = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
            verifier.verify_with_policy(quote, endorsements, seconds, policy)
        except ValueError:  # UnicodeDecodeError as well
            return False
        return True


def simulated_sgx(_shared: Callable[[], Path]) -> Case:
    bench = Bench.new()
    return case(bench.quote(), bench.endorsements, bench.trusted_roots, NOW)


def simulated_tdx(_shared: Callable[[], Path]) -> Case:
    bench = Bench.new()
    endorsements = bench.platform.endorsements(now=NOW, tee="TDX")
    return case(bench.td_quote(), endorsements, bench.trusted_roots, NOW)


def simulated_tdx_1_5(_shared: Callable[[], Path]) -> Case:
    bench = Bench.new()
    quote = bench.td_quote(tee_tcb_svn2=TEE_TCB_SVN, mrservicetd=bytes(48))
    endorsements = bench.platform.endorsements(now=NOW, tee="TDX")
    return replace(case(quote, endorsements, bench.trusted_roots, NOW), step=5)


def real(name: str, shared: Callable[[], Path]) -> Case:
    file = shared() / "vectors" / name
    endorsements = parse_endorsements(file.with_name(f"{file.name}_collateral.json").read_bytes())
    root = x509.parse_pem_chain(endorsements.tcb_info_issuer_chain.encode())[-1]
    issued = datetime.fromisoformat(json.loads(endorsements.tcb_info)["issueDate"])
    roots = TrustedRoots(roots=(TrustedRoot(certificate_der=root, simulated=False),))
    return case(file.read_bytes(), endorsements, roots, issued + timedelta(days=1))


def case(quote: bytes, endorsements: DcapEndorsements, roots: TrustedRoots, now: datetime) -> Case:
    is_sgx, is_newer = quote[4:8] == bytes(4), quote[:2] == b"\5\0"
    return Case(
        quote=quote,
        collateral=endorsements.to_json(),
        roots=roots,
        now=now,
        verify=verify_sgx_quote if is_sgx else verify_tdx_quote,
        body_end=48 + (384 if is_sgx else 6 + 648 if is_newer else 584),
    )


CASES: dict[str, Callable[[Callable[[], Path]], Case]] = {
    "simulated SGX": simulated_sgx,
    "simulated TDX": simulated_tdx,
    "simulated TDX 1.5": simulated_tdx_1_5,
    "real SGX": functools.partial(real, "sgx/sgx_quote"),
    "real TDX": functools.partial(real, "tdx/tdx_quote"),
}


@pytest.fixture(scope="module", params=CASES)
def evidence(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](lambda: request.getfixturevalue("shared"))


def test_every_byte_of_a_quote_is_judged_alike(evidence: Case) -> None:
    good = evidence.ours(evidence.quote, evidence.collateral)
    edits = list(edited(evidence.quote, step=evidence.step))
    assert len(edits) * evidence.step >= 4000
    only_theirs = set()
    for position, quote in edits:
        found = judged(evidence, quote, evidence.collateral)
        if found == "only theirs":
            only_theirs.add(place_in_quote(evidence, position))
        elif found is not None:
            # Between the characters of a PEM block, and behind the last one, bytes say nothing.
            assert evidence.quote[position] in b"\n\0", position
            assert (found.quote.report, found.platform, found.tcb) == (good.quote.report, good.platform, good.tcb)
    assert "embedded root" in only_theirs
    assert only_theirs <= DOCUMENTED.keys()


def test_the_collateral_is_judged_alike(evidence: Case) -> None:
    good = evidence.ours(evidence.quote, evidence.collateral)
    only_theirs = set()
    for position, collateral in edited(evidence.collateral, step=COLLATERAL_STEP):
        found = judged(evidence, evidence.quote, collateral)
        if found == "only theirs":
            only_theirs.add(place_in_collateral(evidence.collateral, position, collateral))
        elif found is not None:
            assert field_at(evidence.collateral, position).endswith("_chain"), position
            assert (found.platform, found.tcb) == (good.platform, good.tcb)
    assert {"pck_crl_issuer_chain", "root of a signer"} <= only_theirs
    assert only_theirs <= DOCUMENTED.keys()


def with_byte(text: bytes, position: int, value: int) -> bytes:
    return text[:position] + bytes([value]) + text[position + 1 :]


def root_of(text: bytes) -> int:
    """Return a place inside the last certificate of a PEM text."""
    return text.rindex(b"-----BEGIN CERTIFICATE-----") + 100


def root_changed(field: str) -> Callable[[Case], tuple[bytes, bytes]]:
    def edit(good: Case) -> tuple[bytes, bytes]:
        document = json.loads(good.collateral)
        text = document[field].encode()
        document[field] = with_byte(
            text, root_of(text), ord("A") if text[root_of(text)] != ord("A") else ord("B")
        ).decode()
        return good.quote, DcapEndorsements(**document).to_json()

    return edit


def upper_case(good: Case) -> tuple[bytes, bytes]:
    document = json.loads(good.collateral)
    return good.quote, DcapEndorsements(**document | {"pck_crl": document["pck_crl"].upper()}).to_json()


def shorter(good: Case) -> tuple[bytes, bytes]:
    """Leave the end of the embedded root out of the certification data, but not out of the quote."""
    length = good.quote.index(b"-----BEGIN") - 4
    size = int.from_bytes(good.quote[length : length + 4], "little") - 64
    return good.quote[:length] + size.to_bytes(4, "little") + good.quote[length + 4 :], good.collateral


EXAMPLES: dict[str, Callable[[Case], tuple[bytes, bytes]]] = {
    "embedded root": lambda good: (with_byte(good.quote, root_of(good.quote), ord("A")), good.collateral),
    "length": shorter,
    "padding": lambda good: (good.quote + b"\1", good.collateral),
    "kind of certification data": lambda good: (
        with_byte(good.quote, good.body_end + _NEWER_SIGNATURE, 7),
        good.collateral,
    ),
    "pck_crl_issuer_chain": root_changed("pck_crl_issuer_chain"),
    "root of a signer": root_changed("tcb_info_issuer_chain"),
    "spelling of hexadecimal": upper_case,
}


def test_every_documented_difference_is_still_one() -> None:
    good = simulated_tdx(Path)
    assert EXAMPLES.keys() == DOCUMENTED.keys()
    found = {name: judged(good, *edit(good)) for name, edit in EXAMPLES.items()}
    assert found == dict.fromkeys(DOCUMENTED, "only theirs")


def edited(good: bytes, *, step: int) -> Iterator[tuple[int, bytes]]:
    """Flip one bit of a byte; which one follows from the position, so that every run does the same."""
    for position in range(0, len(good), step):
        yield position, good[:position] + bytes([good[position] ^ 1 << position % 8]) + good[position + 1 :]


def judged(evidence: Case, quote: bytes, collateral: bytes) -> Any:
    """Return what both found, "only theirs", or None where both refuse. That only ours accepts is a failure."""
    try:
        return evidence.ours(quote, collateral)
    except DisagreementError as error:
        pytest.fail(f"ours accepts, and dcap-qvl does not, or differs: {error} {error.mismatches}")
    except StrongroomError:
        return "only theirs" if evidence.theirs(quote, collateral) else None


def place_in_quote(evidence: Case, position: int) -> str:
    quote = evidence.quote
    chain = list(_CERTIFICATE.finditer(quote))
    end = len((parse_sgx_quote if evidence.verify is verify_sgx_quote else parse_tdx_quote)(quote).to_bytes())
    lengths = (range(evidence.body_end, evidence.body_end + 4), range(chain[0].start() - 4, chain[0].start()))
    kind = evidence.body_end + _NEWER_SIGNATURE
    if chain[1].end() < position < chain[2].end():
        return "embedded root"
    if position >= end:
        return "padding"
    if any(position in length for length in lengths):
        return "length"
    return "kind of certification data" if position in (kind, kind + 1) else f"byte {position}"


def field_at(collateral: bytes, position: int) -> str:
    names = re.finditer(rb'"([a-z_]+)":"', collateral)
    fields = [(each.end(), each[1].decode()) for each in names if each[1].decode() in DcapEndorsements.model_fields]
    return max((start, name) for start, name in [(0, "start"), *fields] if start <= position)[1]


def place_in_collateral(collateral: bytes, position: int, changed: bytes) -> str:
    field = field_at(collateral, position)
    if field == "pck_crl_issuer_chain":
        return field
    if field.endswith("_issuer_chain"):
        start = collateral.index(f'"{field}":"'.encode())
        first = collateral.index(b"-----END CERTIFICATE-----", start) + len(b"-----END CERTIFICATE-----")
        return "root of a signer" if position >= first else f"{field} at {position}"
    return "spelling of hexadecimal" if changed.lower() == collateral.lower() else f"{field} at {position}"
