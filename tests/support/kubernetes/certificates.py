"""The cluster's certificates: an authority, the servers', and one for each part that calls the API server."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.support.kubernetes.site import API_SERVICE, DOMAIN, NODE, Site

CONTEXT: Final = "strongroom-e2e"
"""What kubeconfig files call the cluster."""
_LIFE: Final = timedelta(days=7)
_MASTERS: Final = "system:masters"
_CALLERS: Final = {
    "admin": ("kubernetes-admin", _MASTERS),
    "apiserver-kubelet-client": ("kube-apiserver-kubelet-client", _MASTERS),
    "controller-manager": ("system:kube-controller-manager", ""),
    "front-proxy-client": ("front-proxy-client", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "node-services": ("strongroom-e2e-node-services", _MASTERS),
    "proxy": ("system:kube-proxy", ""),
    "scheduler": ("system:kube-scheduler", ""),
}
"""Name and group of each caller of the API server, or of a kubelet, by the name of its files."""
_AUTHORITY_USAGE: Final = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make_certificates(site: Site) -> None:
    """Write NAME.crt, NAME.key and, for callers, NAME.kubeconfig; beside them the key that signs service accounts."""
    folder = site.certificates
    folder.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    authority = _Authority(certificate=_certificate("strongroom-e2e", key, issuer=None), key=key)
    ca_pem = _pem(authority.certificate)
    _write(folder / "ca.crt", ca_pem)
    _write(folder / "ca.key", _key_pem(key))
    kubernetes = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}"]
    addresses = [site.node_address, "127.0.0.1"]
    _issue(folder / "apiserver", "kube-apiserver", authority, names=[*kubernetes, "localhost", API_SERVICE, *addresses])
    _issue(folder / "kubelet-server", NODE, authority, names=[NODE, *addresses])
    for name, (subject, group) in _CALLERS.items():
        certificate, own_key = _issue(folder / name, subject, authority, group=group)
        config = kubeconfig(server=site.api, ca=ca_pem, user=subject, certificate=certificate, key=own_key)
        _write(folder / f"{name}.kubeconfig", config.encode())
    signer = ec.generate_private_key(ec.SECP256R1())
    _write(folder / "service-accounts.key", _key_pem(signer))
    public = signer.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write(folder / "service-accounts.pub", public)


def kubeconfig(*, server: str, ca: bytes, user: str, certificate: bytes, key: bytes) -> str:
    """Return the file with which a client finds the cluster and shows who it is."""

    def data(content: bytes) -> str:
        return base64.b64encode(content).decode()

    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CONTEXT,
            "clusters": [{"name": CONTEXT, "cluster": {"server": server, "certificate-authority-data": data(ca)}}],
            "users": [
                {"name": user, "user": {"client-certificate-data": data(certificate), "client-key-data": data(key)}}
            ],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": user}}],
        },
        indent=1,
    )


def _issue(
    path: Path, subject: str, authority: _Authority, *, group: str = "", names: Sequence[str] = ()
) -> tuple[bytes, bytes]:
    """Write certificate and key of one holder: a server when it has names, else a caller."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _pem(_certificate(subject, key, issuer=authority, group=group, names=names))
    _write(path.with_suffix(".crt"), certificate)
    _write(path.with_suffix(".key"), _key_pem(key))
    return certificate, _key_pem(key)


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: _Authority | None,
    group: str = "",
    names: Sequence[str] = (),
) -> x509.Certificate:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    name = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(tz=UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    signer = issuer.key if issuer else key
    for extension in (
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
    ):
        builder = builder.add_extension(extension, critical=False)
    if issuer is None:
        builder = builder.add_extension(_AUTHORITY_USAGE, critical=True)
    else:
        usage = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName(list(map(_general_name, names)))
        builder = builder.add_extension(alternatives, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(content)
