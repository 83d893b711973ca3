"""Certificates of servers under pinned roots: paths, names, uses."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from strongroom.base.errors import FormatError, UntrustedRootError, VerificationError
from strongroom.crypto import x509
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.web_pki import pinned_roots, verify_server_chain

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Authority:
    """A root, and the authorities below it."""

    def __init__(self, *, below: "Authority | None" = None, path_length: int = 1, **changed: Any) -> None:
        self.key = SigningKey.generate("ES256")
        fields: dict[str, Any] = {
            "common_name": "below" if below else "root",
            "public_key": self.key.verifying_key,
            "not_before": NOW - DAY,
            "not_after": NOW + DAY,
            "ca_path_length": path_length,
            **changed,
        }
        self.der = x509.issue_certificate(
            x509.CertificateRequest(**fields),
            issuer_der=below.der if below else None,
            issuer_key=below.key if below else self.key,
        )

    def leaf(self, *sans: str, usage: x509.LeafUsage | None = x509.LeafUsage.TLS, **changed: Any) -> bytes:
        fields: dict[str, Any] = {
            "common_name": "a server",
            "public_key": SigningKey.generate("ES256").verifying_key,
            "not_before": NOW - DAY,
            "not_after": NOW + DAY,
            "ca_path_length": None,
            "sans": sans,
            "usage": usage,
            **changed,
        }
        return x509.issue_certificate(x509.CertificateRequest(**fields), issuer_der=self.der, issuer_key=self.key)


ROOT = Authority()
BELOW = Authority(below=ROOT, path_length=0)


def verify(chain: Sequence[bytes], host: str = "a.vault.azure.net", **changed: Any) -> None:
    fields: dict[str, Any] = {"host": host, "roots_der": [ROOT.der], "now": NOW, **changed}
    verify_server_chain(chain, **fields)


def test_finds_the_path_with_and_without_the_root() -> None:
    leaf = BELOW.leaf("*.vault.azure.net")
    verify([leaf, BELOW.der])
    verify([leaf, BELOW.der, ROOT.der])
    verify([leaf, ROOT.der, BELOW.der])
    verify([ROOT.leaf("a.vault.azure.net")])
    verify([ROOT.leaf("10.0.0.1")], host="10.0.0.1")
    verify([ROOT.leaf("a.vault.azure.net", usage=x509.LeafUsage.SIGNING)])


@pytest.mark.parametrize(
    ("sans", "host"),
    [
        (("*.vault.azure.net",), "a.b.vault.azure.net"),
        (("*.vault.azure.net",), "vault.azure.net"),
        (("b.vault.azure.net",), "a.vault.azure.net"),
        (("a.vault.azure.net",), "10.0.0.1"),
        ((), "a.vault.azure.net"),
    ],
)
def test_refuses_a_certificate_for_another_name(sans: tuple[str, ...], host: str) -> None:
    with pytest.raises(VerificationError):
        verify([ROOT.leaf(*sans)], host=host)


def test_refuses_another_root_a_missing_link_and_no_root_at_all() -> None:
    leaf, other = BELOW.leaf("a.vault.azure.net"), Authority()
    for chain, roots in (
        ([leaf, BELOW.der], [other.der]),
        ([leaf], [ROOT.der]),
        ([leaf, other.der], [ROOT.der]),
    ):
        with pytest.raises(VerificationError):
            verify(chain, roots_der=roots)


def test_refuses_times_uses_and_leaves_that_issue() -> None:
    early, late = NOW - 2 * DAY, NOW + 2 * DAY
    leaf = ROOT.leaf("a.vault.azure.net")
    for moment in (early, late):
        with pytest.raises(VerificationError):
            verify([leaf], now=moment)
    with pytest.raises(VerificationError):
        verify([ROOT.leaf("a.vault.azure.net", usage=None)])
    for_clients = x509.Extension(oid="2.5.29.37", value_der=bytes.fromhex("300a06082b06010505070302"), critical=False)
    with pytest.raises(VerificationError):
        verify([ROOT.leaf("a.vault.azure.net", usage=None, extensions=[for_clients])])
    with pytest.raises(VerificationError):
        verify([Authority(below=ROOT, path_length=0, sans=["a.vault.azure.net"], usage=x509.LeafUsage.TLS).der])
    unknown = x509.Extension(oid="1.2.3.4", value_der=b"\x05\x00", critical=True)
    with pytest.raises(VerificationError):
        verify([ROOT.leaf("a.vault.azure.net", extensions=[unknown])])


def test_refuses_what_is_no_chain() -> None:
    for chain in ([], [b""], [b"\x30\x00"], [ROOT.leaf("a.vault.azure.net")] * 9):
        with pytest.raises(FormatError):
            verify(chain)
    with pytest.raises(FormatError):
        verify([ROOT.leaf("a.vault.azure.net")], host="not a name")


def test_takes_only_pinned_roots() -> None:
    pem = (x509.to_pem(ROOT.der) + x509.to_pem(BELOW.der)).encode()
    assert pinned_roots(pem, digests={sha256_hex(ROOT.der)}) == (ROOT.der,)
    with pytest.raises(UntrustedRootError):
        pinned_roots(pem, digests=set())
