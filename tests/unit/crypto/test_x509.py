import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import load_der_x509_certificate, load_der_x509_crl
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, StrongroomError, UntrustedRootError, VerificationError
from strongroom.crypto import der, x509
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import CertificateRequest, Extension, LeafUsage, RevocationLists

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
MARK = f"{x509.STRONGROOM_ARC}.99"

ROOT, CA, LEAF = (SigningKey.generate("ES256") for _ in range(3))


def request(name: str, key: SigningKey, ca_path_length: int | None, **fields: Any) -> CertificateRequest:
    made = CertificateRequest(
        common_name=name,
        public_key=key.verifying_key,
        not_before=NOW - DAY,
        not_after=NOW + 30 * DAY,
        ca_path_length=ca_path_length,
    )
    return replace(made, **fields)


class Hierarchy:
    """Root, CA and leaf, each open to one edit."""

    def __init__(
        self,
        root: dict[str, Any] | None = None,
        ca: dict[str, Any] | None = None,
        leaf: dict[str, Any] | None = None,
    ) -> None:
        self.root = x509.issue_certificate(
            replace(request("root", ROOT, 1), **root or {}), issuer_der=None, issuer_key=ROOT
        )
        self.ca = x509.issue_certificate(
            replace(request("ca", CA, 0), **ca or {}), issuer_der=self.root, issuer_key=ROOT
        )
        self.leaf = x509.issue_certificate(
            replace(request("leaf", LEAF, None), **leaf or {}), issuer_der=self.ca, issuer_key=CA
        )
        self.chain = [self.leaf, self.ca, self.root]

    def lists(self, **edits: Any) -> RevocationLists:
        return RevocationLists([self.root_list(**edits), self.ca_list()])

    def root_list(self, **edits: Any) -> bytes:
        return x509.issue_crl(**{**self.list_fields(self.root, ROOT), **edits})

    def ca_list(self, **edits: Any) -> bytes:
        return x509.issue_crl(**{**self.list_fields(self.ca, CA), **edits})

    def list_fields(self, issuer: bytes, key: SigningKey) -> dict[str, Any]:
        return {
            "issuer_der": issuer,
            "issuer_key": key,
            "revoked_der": [],
            "number": 1,
            "last_update": NOW - DAY,
            "next_update": NOW + 7 * DAY,
        }

    def verify(self, chain: list[bytes] | None = None, **arguments: Any) -> x509.VerifiedChain:
        arguments = {"roots_der": [self.root], "revocation": None, "now": NOW, **arguments}
        return x509.verify_chain(chain or self.chain, **arguments)


GOOD = Hierarchy()


def test_accepts_a_chain_to_a_trusted_root_and_says_when_it_ends() -> None:
    verified = GOOD.verify(revocation=GOOD.lists())
    assert (verified.leaf_der, verified.root_der) == (GOOD.leaf, GOOD.root)
    assert verified.not_after == NOW + 7 * DAY
    assert GOOD.verify().not_after == NOW + 30 * DAY


def test_refuses_when_no_root_is_trusted() -> None:
    with pytest.raises(UntrustedRootError):
        GOOD.verify(roots_der=[])


def test_refuses_another_root_of_the_same_name_and_key() -> None:
    with pytest.raises(UntrustedRootError):
        GOOD.verify(roots_der=[Hierarchy().root])


def test_refuses_a_lone_root() -> None:
    with pytest.raises(VerificationError, match="leaf and a root"):
        GOOD.verify([GOOD.root])


def test_refuses_a_certificate_signed_by_somebody_else() -> None:
    other = SigningKey.generate("ES256")
    forged = x509.issue_certificate(request("leaf", LEAF, None), issuer_der=GOOD.ca, issuer_key=other)
    with pytest.raises(VerificationError, match="not signed by the next one"):
        GOOD.verify([forged, GOOD.ca, GOOD.root])


def test_refuses_a_chain_in_another_order() -> None:
    with pytest.raises(VerificationError):
        GOOD.verify([GOOD.ca, GOOD.leaf, GOOD.root])


@pytest.mark.parametrize("now", [NOW - 2 * DAY, NOW + 31 * DAY])
def test_refuses_certificates_out_of_their_time(now: datetime) -> None:
    with pytest.raises(VerificationError, match="not valid at this time") as refused:
        GOOD.verify(now=now)
    (time,) = refused.value.mismatches
    assert (time.expected, time.actual) == ("2026-02-28T00:00:00Z to 2026-03-31T00:00:00Z", f"{now:%Y-%m-%dT%H:%M:%SZ}")


def test_refuses_a_leaf_that_issues() -> None:
    other = SigningKey.generate("ES256")
    issued = x509.issue_certificate(request("x", other, None), issuer_der=GOOD.leaf, issuer_key=LEAF)
    with pytest.raises(VerificationError, match="wrong place"):
        GOOD.verify([issued, GOOD.leaf, GOOD.ca, GOOD.root])


def test_refuses_a_ca_as_leaf() -> None:
    bad = Hierarchy(leaf={"ca_path_length": 0})
    with pytest.raises(VerificationError, match="wrong place"):
        bad.verify()


def test_refuses_a_chain_longer_than_its_ca_allows() -> None:
    bad = Hierarchy(root={"ca_path_length": 0})
    with pytest.raises(VerificationError, match="longer"):
        bad.verify()


@pytest.mark.parametrize("where", ["root", "ca", "leaf"])
def test_refuses_an_unknown_critical_extension(where: str) -> None:
    mark = Extension(oid=MARK, value_der=der.encode(der.UTF8_STRING, b"x"), critical=True)
    bad = Hierarchy(**{where: {"extensions": [mark]}})
    with pytest.raises(VerificationError, match="critical extension"):
        bad.verify()
    harmless = Hierarchy(**{where: {"extensions": [replace(mark, critical=False)]}})
    harmless.verify()


def test_a_critical_extension_is_understood_in_the_root_only() -> None:
    mark = Extension(oid=MARK, value_der=der.encode(der.UTF8_STRING, b"x"), critical=True)
    Hierarchy(root={"extensions": [mark]}).verify(understood_in_root=MARK)
    with pytest.raises(VerificationError, match="critical extension"):
        Hierarchy(ca={"extensions": [mark]}).verify(understood_in_root=MARK)


def test_refuses_revoked_certificates() -> None:
    revoked = GOOD.ca_list(revoked_der=[GOOD.leaf])
    with pytest.raises(VerificationError, match="is revoked"):
        GOOD.verify(revocation=RevocationLists([GOOD.root_list(), revoked]))
    with pytest.raises(VerificationError, match="is revoked"):
        GOOD.verify(revocation=GOOD.lists(revoked_der=[GOOD.ca]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"next_update": NOW - timedelta(hours=1)}, "not valid"),
        ({"last_update": NOW + timedelta(hours=1)}, "not valid"),
        ({"issuer_key": LEAF}, "not signed by its issuer"),
    ],
    ids=["stale", "from the future", "forged"],
)
def test_refuses_a_revocation_list_that_does_not_hold(edit: dict[str, Any], message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        GOOD.verify(revocation=GOOD.lists(**edit))


def test_refuses_when_a_revocation_list_is_missing() -> None:
    with pytest.raises(VerificationError, match="no revocation list"):
        GOOD.verify(revocation=RevocationLists([GOOD.root_list()]))
    with pytest.raises(VerificationError, match="no revocation list"):
        GOOD.verify(revocation=RevocationLists([]))


def test_a_certificate_is_read_as_it_was_issued() -> None:
    found = x509.read_certificate(GOOD.ca)
    assert (found.subject, found.issuer) == ("CN=ca", "CN=root")
    assert (found.not_before, found.not_after) == (NOW - DAY, NOW + 30 * DAY)
    assert (found.key, found.is_ca) == ("secp256r1", True)
    assert int(found.serial_number, 16) > 0
    assert not x509.read_certificate(GOOD.leaf).is_ca


def test_a_revocation_list_is_read_as_it_was_issued() -> None:
    found = x509.read_crl(GOOD.ca_list(number=7, revoked_der=[GOOD.leaf]))
    assert (found.issuer, found.number) == ("CN=ca", 7)
    assert (found.last_update, found.next_update) == (NOW - DAY, NOW + 7 * DAY)
    assert found.revoked == (x509.read_certificate(GOOD.leaf).serial_number,)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_certificate_or_a_format_error(data: bytes) -> None:
    readers = (x509.to_pem, x509.public_key, x509.common_name, x509.parse_pem_chain, x509.read_certificate)
    for read in (*readers, x509.read_crl, x509.crl_from_pem):
        with pytest.raises(FormatError):
            read(data)
    with pytest.raises(FormatError):
        RevocationLists([data])


@pytest.mark.parametrize("kind", ["certificate", "list"])
def test_refuses_a_signature_with_unused_bits(kind: str) -> None:
    """A signature whose last bit is zero would hold without it, and the certificate would have two spellings."""
    made, signature = b"", b"\1"
    while signature[-1] % 2:
        if kind == "certificate":
            made = Hierarchy().leaf
            signature = load_der_x509_certificate(made).signature
        else:
            made = GOOD.ca_list()
            signature = load_der_x509_crl(made).signature
    number_of_unused_bits = len(made) - len(signature) - 1
    edited = made[:number_of_unused_bits] + b"\1" + made[number_of_unused_bits + 1 :]
    read: Callable[[bytes], object] = x509.common_name if kind == "certificate" else lambda der: RevocationLists([der])
    read(made)
    with pytest.raises(FormatError, match="unused bits"):
        read(edited)


@given(st.integers(0, len(GOOD.leaf) - 1), st.integers(1, 255))
def test_any_one_byte_edit_of_a_leaf_is_refused(position: int, difference: int) -> None:
    edited = bytearray(GOOD.leaf)
    edited[position] ^= difference
    with pytest.raises((FormatError, VerificationError)):
        GOOD.verify([bytes(edited), GOOD.ca, GOOD.root])


@given(st.integers(0, len(GOOD.leaf) - 1), st.integers(1, 255))
def test_readers_meet_edited_certificates_without_other_errors(position: int, difference: int) -> None:
    edited = bytearray(GOOD.leaf)
    edited[position] ^= difference
    for read in (x509.to_pem, x509.public_key, x509.common_name, x509.spki_sha256, x509.read_certificate):
        with contextlib.suppress(FormatError):
            read(bytes(edited))
    with contextlib.suppress(FormatError):
        x509.extension(bytes(edited), MARK)


# --- identities ------------------------------------------------------------------------------------------------------


class Service:
    """An identity and the leaves it issues."""

    def __init__(self) -> None:
        self.key = SigningKey.generate("ES256")
        self.certificate = x509.new_identity(
            common_name="a service", key=self.key, not_before=NOW - DAY, not_after=NOW + 3650 * DAY
        )
        self.identity = x509.spki_sha256(self.certificate)

    def leaf(self, key: SigningKey, usage: LeafUsage = LeafUsage.TLS, **edits: Any) -> bytes:
        fields = {
            "issuer_cert": self.certificate,
            "issuer_key": self.key,
            "subject_public_key": key.verifying_key,
            "common_name": "leaf",
            "sans": ["localhost", "127.0.0.1"],
            "usage": usage,
            "not_before": NOW - DAY,
            "not_after": NOW + DAY,
        }
        return x509.issue_leaf(**{**fields, **edits})


SERVICE = Service()


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "Ed25519", "RS256"])
def test_an_identity_issues_leaves_for_every_kind_of_key(algorithm: Any) -> None:
    key = SigningKey.generate(algorithm)
    chain = [SERVICE.leaf(key, LeafUsage.SIGNING), SERVICE.certificate]
    leaf = x509.verify_leaf(chain, identity=SERVICE.identity, usage=LeafUsage.SIGNING, now=NOW)
    assert leaf.public_key.spki == key.verifying_key.spki
    assert leaf.sans == ("localhost", "127.0.0.1")
    assert leaf.not_after == NOW + DAY


def test_the_identity_is_the_thumbprint_of_its_key() -> None:
    assert SERVICE.identity == SERVICE.key.verifying_key.thumbprint


def test_refuses_a_leaf_of_another_identity() -> None:
    other = Service()
    chain = [other.leaf(LEAF), other.certificate]
    with pytest.raises(UntrustedRootError):
        x509.verify_leaf(chain, identity=SERVICE.identity, usage=LeafUsage.TLS, now=NOW)
    with pytest.raises(VerificationError):
        x509.verify_leaf(
            [other.leaf(LEAF), SERVICE.certificate], identity=SERVICE.identity, usage=LeafUsage.TLS, now=NOW
        )


def test_a_tls_leaf_signs_no_statements_and_the_other_way_round() -> None:
    for has, wanted in ((LeafUsage.TLS, LeafUsage.SIGNING), (LeafUsage.SIGNING, LeafUsage.TLS)):
        chain = [SERVICE.leaf(LEAF, has), SERVICE.certificate]
        with pytest.raises(VerificationError, match="another use"):
            x509.verify_leaf(chain, identity=SERVICE.identity, usage=wanted, now=NOW)


def test_the_identity_certificate_is_no_leaf_of_itself() -> None:
    chain = [SERVICE.certificate, SERVICE.certificate]
    with pytest.raises(VerificationError):
        x509.verify_leaf(chain, identity=SERVICE.identity, usage=LeafUsage.TLS, now=NOW)


def test_refuses_an_expired_leaf() -> None:
    chain = [SERVICE.leaf(LEAF), SERVICE.certificate]
    with pytest.raises(VerificationError, match="not valid"):
        x509.verify_leaf(chain, identity=SERVICE.identity, usage=LeafUsage.TLS, now=NOW + 2 * DAY)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_refuses_chains_of_another_length(count: int) -> None:
    chain = [SERVICE.leaf(LEAF), SERVICE.certificate, SERVICE.certificate][:count]
    with pytest.raises(VerificationError):
        x509.verify_leaf(chain, identity=SERVICE.identity, usage=LeafUsage.TLS, now=NOW)


def test_openssl_accepts_the_tls_leaf_under_the_identity_and_no_other(tmp_path: Path) -> None:
    now = datetime.now(tz=UTC)
    service, key = Service(), SigningKey.generate("ES256")
    leaf = service.leaf(key, not_before=now - DAY, not_after=now + DAY)
    files = tmp_path / "leaf.pem", tmp_path / "key.pem"
    files[0].write_text(x509.to_pem(leaf))
    files[1].write_bytes(key.to_pem().reveal())
    handshake(files, trusted=service.certificate, name="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, trusted=Service().certificate, name="127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(files, trusted=service.certificate, name="127.0.0.2")


def handshake(files: tuple[Path, Path], *, trusted: bytes, name: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*files)
    client = ssl.create_default_context(cadata=x509.to_pem(trusted))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=quietly(lambda: server.wrap_socket(theirs, server_side=True).close()))
    thread.start()
    try:
        client.wrap_socket(ours, server_hostname=name).close()
    finally:
        ours.close()
        thread.join()
        theirs.close()


def quietly(action: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(OSError):
            action()

    return run


def test_an_anchor_without_its_extension_keeps_name_and_key() -> None:
    mark = Extension(oid=MARK, value_der=der.encode(der.UTF8_STRING, b"x"), critical=True)
    root = Hierarchy(root={"extensions": [mark]}).root
    anchor = x509.anchor_without_extension(root, MARK)
    assert x509.extension(root, MARK) == mark
    assert x509.extension(anchor, MARK) is None
    assert x509.spki_sha256(anchor) == x509.spki_sha256(root)
    assert x509.common_name(anchor) == "root"


def test_every_one_byte_edit_of_a_revocation_list_is_one_of_our_errors() -> None:
    made = Hierarchy()
    crl = x509.issue_crl(
        issuer_der=made.root,
        issuer_key=ROOT,
        revoked_der=[made.leaf],
        number=1,
        last_update=NOW,
        next_update=NOW + DAY,
    )
    for position in range(len(crl)):
        for flip in (0x01, 0x20, 0xFF):
            changed = crl[:position] + bytes([crl[position] ^ flip]) + crl[position + 1 :]
            with contextlib.suppress(StrongroomError):
                lists = RevocationLists([changed])
                x509.verify_chain([made.ca, made.root], roots_der=[made.root], revocation=lists, now=NOW)


# --- lists and CAs on their own ----------------------------------------------------------------------------------


def test_a_list_alone_says_its_number_and_until_when_it_holds() -> None:
    made = Hierarchy()
    found = x509.verify_crl(made.ca_list(number=7), issuer_der=made.ca, now=NOW)
    assert found.number == 7
    assert found.last_update <= NOW <= found.next_update
    assert x509.crl_issuer(made.ca_list()) == "ca"
    assert x509.crl_from_pem(x509.crl_pem(made.ca_list(number=7)))[:1] == b"0"


def test_refuses_a_list_of_another_issuer_even_under_the_same_key() -> None:
    made, renamed = Hierarchy(), Hierarchy(ca={"common_name": "another ca"})
    x509.verify_crl(renamed.ca_list(), issuer_der=renamed.ca, now=NOW)
    with pytest.raises(VerificationError, match="another issuer"):
        x509.verify_crl(renamed.ca_list(), issuer_der=made.ca, now=NOW)
    with pytest.raises(VerificationError):
        x509.verify_crl(made.ca_list(issuer_key=ROOT), issuer_der=made.ca, now=NOW)


@pytest.mark.parametrize("days", [-2, 400])
def test_refuses_a_list_alone_out_of_its_time(days: int) -> None:
    made = Hierarchy()
    with pytest.raises(VerificationError, match="not valid at this time"):
        x509.verify_crl(made.ca_list(), issuer_der=made.ca, now=NOW + days * DAY)


def test_a_chain_of_cas_needs_no_leaf_and_takes_none() -> None:
    made = Hierarchy()
    for chain in ([made.ca, made.root], [made.root]):
        assert x509.verify_authorities(chain, roots_der=[made.root], now=NOW) == NOW + 30 * DAY
    for chain in ([], [made.ca], [made.root, made.ca], [made.leaf, made.root], [made.leaf, made.ca, made.root]):
        with pytest.raises(VerificationError):
            x509.verify_authorities(chain, roots_der=[made.root], now=NOW)
    for roots in ([], [Hierarchy().root]):
        with pytest.raises(UntrustedRootError):
            x509.verify_authorities([made.ca, made.root], roots_der=roots, now=NOW)
    with pytest.raises(VerificationError, match="valid"):
        x509.verify_authorities([made.ca, made.root], roots_der=[made.root], now=NOW + 31 * DAY)


def test_a_critical_extension_of_a_ca_chain_is_understood_in_the_root_only() -> None:
    mark = {"extensions": (Extension(oid=MARK, value_der=der.encode(der.UTF8_STRING, b"x"), critical=True),)}
    made = Hierarchy(root=mark)
    x509.verify_authorities([made.ca, made.root], roots_der=[made.root], now=NOW, understood_in_root=MARK)
    with pytest.raises(VerificationError, match="critical"):
        x509.verify_authorities([made.ca, made.root], roots_der=[made.root], now=NOW)
    made = Hierarchy(ca=mark)
    with pytest.raises(VerificationError, match="critical"):
        x509.verify_authorities([made.ca, made.root], roots_der=[made.root], now=NOW, understood_in_root=MARK)


@given(st.binary(max_size=64))
def test_any_bytes_are_a_list_or_a_format_error(data: bytes) -> None:
    for read in (x509.crl_issuer, x509.crl_pem, x509.crl_from_pem, x509.crl_distribution_points):
        with pytest.raises(FormatError):
            read(data)


def test_a_certificate_without_distribution_points_names_none() -> None:
    assert x509.crl_distribution_points(Hierarchy().root) == ()
