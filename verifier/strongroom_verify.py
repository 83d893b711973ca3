"""Verify the receipt of a Strongroom run, offline: `python strongroom_verify.py RECEIPT --trust TRUST`.

One file that an auditor reads from top to bottom. It needs Python 3.9 or newer, the standard library and the package
`cryptography` (42 or newer), and nothing of Strongroom: it was written from the formats, not from the product's code,
and must come to the same verdict as `strongroom receipt verify`.

The recipe is the function `verify` at the end; each of its steps is a function above it. Nothing is ever taken from the
receipt as an anchor: roots, services, owners, witnesses and agents come from the trust file, which its reader already
has. Everything that is not exactly as expected raises `DoesNotHoldError`.

What it does not do: it asks nobody, so a log that shows others another history is found by witnesses, or by comparing
logs; it verifies a DCAP quote alone, where the product lets a second program verify it as well.

Exit status: 0 the receipt holds, 1 it does not, 2 it was called wrongly.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtensionOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# AMD gives all of its chips' certificates the serial number 0, which the library reads, and warns of.
warnings.filterwarnings("ignore", message="Parsed a serial number which wasn't positive")


class DoesNotHoldError(Exception):
    """The receipt does not hold; the text says which part of it."""


# What the libraries raise when they are given something malformed; `verify` turns all of it into one error.
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    RecursionError,
    UserWarning,
    struct.error,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


def demand(what: str, expected: object, found: object) -> None:
    """Refuse a receipt in which two things differ that must be the same."""
    if type(expected) is not type(found) or expected != found:
        raise DoesNotHoldError(f"{what}: expected {str(expected)[:200]}, found {str(found)[:200]}")


def demand_true(holds: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Refuse a receipt for which something is not so."""
    if not holds:
        raise DoesNotHoldError(what)


# === 1. Text forms ====================================================================================================


def sha256(data: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def unbase64(text: str) -> bytes:
    """Standard base64, in its one canonical spelling."""
    data = base64.b64decode(text.encode("ascii"), validate=True)
    demand_true(base64.b64encode(data).decode("ascii") == text, "base64 text is not in its canonical spelling")
    return data


def unbase64url(text: str) -> bytes:
    """Unpadded base64url, in its one canonical spelling (RFC 7515, section 2)."""
    demand_true("+" not in text and "/" not in text and "=" not in text, "not base64url text")
    data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    canonical_text = base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
    demand_true(canonical_text == text, "base64url text is not in its canonical spelling")
    return data


def unhex(text: str, size: int | None = None) -> bytes:
    """Lower-case hexadecimal."""
    data = bytes.fromhex(text)
    demand_true(data.hex() == text and size in (None, len(data)), "hexadecimal text of another size or spelling")
    return data


def parse_json(text: bytes) -> dict:
    """Strict JSON whose top level is an object: no duplicate names, no NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict:
        demand_true(len(dict(pairs)) == len(pairs), "JSON with a duplicate name")
        return dict(pairs)

    def refuse(name: str) -> None:
        raise DoesNotHoldError(f"{name} is not JSON")

    value = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
    demand_true(isinstance(value, dict), "a JSON object was expected")
    return value


def canonical(value: object) -> bytes:
    """RFC 8785 canonical JSON. Numbers are whole: nothing in receipts has another kind."""

    def ordered(part: object) -> object:
        if isinstance(part, dict):
            return {name: ordered(part[name]) for name in sorted(part, key=lambda name: name.encode("utf-16-be"))}
        if isinstance(part, list):
            return [ordered(each) for each in part]
        demand_true(part is None or isinstance(part, (str, int)), "JSON with a number that is not whole")
        demand_true(isinstance(part, str) or abs(part or 0) < 2**53, "JSON with a number that is too large")
        return part

    return json.dumps(ordered(value), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parse_canonical(text: bytes) -> dict:
    """JSON that is canonical, byte for byte, so that any edit shows."""
    value = parse_json(text)
    demand_true(canonical(value) == text, "the JSON text is not in canonical form (RFC 8785)")
    return value


def moment(text: str) -> datetime:
    """RFC 3339 time in UTC, whole seconds."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


# === 2. Shapes: which members a message has; unknown ones are refused =================================================

Shape = Callable[[Any], bool]


def text(pattern: str = r"[\s\S]*", least: int = 0, most: int = 1 << 30) -> Shape:
    """Text of a form."""
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and least <= len(value) <= most and bool(compiled.fullmatch(value))


def whole(least: int = -(2**53), most: int = 2**53) -> Shape:
    """A whole number."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def one_of(*values: object) -> Shape:
    """One of a few values."""
    return lambda value: any(type(value) is type(each) and value == each for each in values)


def either(*shapes: Shape) -> Shape:
    """One of several shapes."""
    return lambda value: any(shape(value) for shape in shapes)


def array(shape: Shape, least: int = 0, most: int = 1 << 30) -> Shape:
    """A list of one shape."""
    return lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(shape, value))


def mapping(name: Shape, shape: Shape, least: int = 0, most: int = 1 << 30) -> Shape:
    """An object with any names of a form."""
    return lambda value: (
        isinstance(value, dict)
        and least <= len(value) <= most
        and all(name(each) and shape(member) for each, member in value.items())
    )


def record(members: dict, optional: dict | None = None) -> Shape:
    """An object with exactly these members."""
    known = {**members, **(optional or {})}

    def holds(value: object) -> bool:
        if not isinstance(value, dict):
            return False
        for name in value:
            demand_true(name in known, f"an unknown member: {name}")
        for name, shape in known.items():
            demand_true(name in value or name not in members, f"a missing member: {name}")
            demand_true(name not in value or shape(value[name]), f"a member of another form: {name}")
        return True

    return holds


def read(value: object, shape: Shape, what: str) -> Any:  # noqa: ANN401 - parsed JSON
    """Return a value of a shape."""
    try:
        demand_true(shape(value), "another kind of value")
    except DoesNotHoldError as error:
        raise DoesNotHoldError(f"not {what}: {error}") from error
    return value


TEXT, NUMBER, NOTHING, FLAG = text(), whole(least=0), one_of(None), lambda value: isinstance(value, bool)
HEX16, HEX32, HEX48 = text(r"[0-9a-f]{32}"), text(r"[0-9a-f]{64}"), text(r"[0-9a-f]{96}")
B64URL, NAME = text(r"[A-Za-z0-9_-]*"), text(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TIME = text(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
JWS = text(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
URL = text(r"https://[A-Za-z0-9.\-\[\]:]+(/[A-Za-z0-9./_\-]*)?")
ORIGIN = text(r"https://[a-z0-9.\-]+(:[0-9]{1,5})?", most=300)
ROLE, TEE, HARDWARE = one_of("driver", "executor"), one_of("sgx", "tdx", "snp"), one_of("simulated", "real")
HOLDER = one_of("file", "pkcs11", "vault", "https", "custody")
VAULTS = ("azure-key-vault", "azure-managed-hsm")
OUTCOME, MODE, FIRST = one_of("succeeded", "failed"), one_of("owner-operated", "attested"), {"version": one_of(1)}
PROOF = record({"leaf": TEXT, "index": NUMBER, "checkpoint": TEXT, "path": array(HEX32, most=64)})
VTPM = record(
    {
        "hcl_report": B64URL,
        "tpm_quote": B64URL,
        "tpm_signature": B64URL,
        "pcrs": mapping(text(r"1?[0-9]|2[0-3]"), HEX32, 1),
    }
)
EVIDENCE = record(
    {"kind": TEE, "quote": B64URL, "runtime_data": B64URL},
    {
        "certificate_chain": either(text(most=64 << 10), NOTHING),
        "initdata": either(B64URL, NOTHING),
        "vtpm": either(VTPM, NOTHING),
    },
)
MEMBER = record(
    {"number": whole(), "role": ROLE, "joined_at": TIME, "result": JWS, "evidence": EVIDENCE},
)
DETACHED = array(text(r"[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]+"), most=32)
SIGNED_ROSTER = record({"statement": JWS}, {"signatures": DETACHED})
APPROVAL_PROOF = record({}, {"signatures": DETACHED, "rosters": array(SIGNED_ROSTER, most=256)})
RECORD = record(
    {"run": HEX32, "members": array(MEMBER), "approvals": mapping(NAME, JWS), "leaves": array(PROOF)},
    {"proofs": mapping(NAME, APPROVAL_PROOF)},
)
VAULT_RECORD = record(
    {
        "statement": TEXT,
        "approvals": mapping(NAME, JWS, 1),
        "member": MEMBER,
        "policy": B64URL,
        "policy_immutable": FLAG,
        "version_keys": mapping(NAME, mapping(TEXT, TEXT)),
        "outputs": mapping(NAME, JWS),
    }
)
OUTPUT = record({"manifest_digest": HEX32, "files": whole(), "size_bytes": whole()})
BODY = record(
    {
        "hardware": HARDWARE,
        "run": HEX32,
        "run_id": HEX16,
        "outcome": OUTCOME,
        "exit_status": whole(),
        "started_at": TIME,
        "finished_at": TIME,
        "ticket": JWS,
        "application": TEXT,
        "attestation_service": URL,
        "endorsements": mapping(TEXT, TEXT),
        "records": mapping(HEX32, RECORD),
        "inputs": mapping(NAME, JWS),
        "outputs": mapping(NAME, OUTPUT),
        "log_digest": HEX32,
    },
    {
        "version": one_of(1, 2),
        "attestation_certificates": array(B64URL, most=16),
        "attestation_keys": mapping(text(r"[!-~]{1,200}"), B64URL, most=16),
        "vaults": mapping(HEX32, VAULT_RECORD),
        "input_proofs": mapping(NAME, PROOF),
    },
)
ENVELOPE = record(
    {"payload": TEXT, "payloadType": TEXT, "signatures": array(record({"keyid": HEX32, "sig": TEXT}), 1, 1)}
)
RECEIPT = record(
    {"body": BODY, "signature": B64URL, "closings": mapping(HEX32, JWS)},
    {"version": one_of(1, 2), "attestation": either(NOTHING, ENVELOPE)},
)
TICKET = record(
    {
        "run_id": HEX16,
        "application": HEX32,
        "datasets": mapping(NAME, either(whole(), NOTHING), 1, 64),
        "max_executors": whole(1, 10_000),
        "not_after": TIME,
        "submitter": HEX32,
        "checkpoints": mapping(HEX32, TEXT),
    },
    FIRST,
)
RUNTIME_DATA = record(
    {
        "application": HEX32,
        "role": ROLE,
        "run": HEX32,
        "nonces": mapping(HEX32, TEXT, 1, 16),
        "keys": array(mapping(TEXT, lambda _: True), 1, 1),
        "signing_key": mapping(TEXT, TEXT),
    },
    {**FIRST, "driver_key": either(HEX32, NOTHING)},
)
CLOSING = record(
    {
        "key_service": HEX32,
        "run": HEX32,
        "outcome": OUTCOME,
        "receipt": HEX32,
        "leaves": whole(),
        "versions": mapping(NAME, JWS),
        "proof": PROOF,
        "member_proofs": array(PROOF),
    },
    {**FIRST, "mode": MODE, "master_key": either(NOTHING, HOLDER)},
)
VERSION = record(
    {
        "key_service": HEX32,
        "dataset": NAME,
        "number": whole(1),
        "previous": either(HEX32, NOTHING),
        "manifest_digest": HEX32,
        "write_ids": array(HEX16),
        "writer": TEXT,
        "created_at": TIME,
    },
    FIRST,
)
MACHINE = text(r"(ppid|platform-instance):[0-9a-f]{32}|chip-id:[0-9a-f]{128}")
PLATFORM = record(
    {
        "machines": either(one_of("any"), array(MACHINE, 1, 10_000)),
        "min_tcb_evaluation_data_number": either(NUMBER, NOTHING),
        "min_crl_number": either(NUMBER, NOTHING),
    }
)
CLUSTER = {
    "issuer": URL,
    "subject": text(r"system:serviceaccount:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?:[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"),
}
WORKLOAD_DEMAND = record(CLUSTER, {"role": either(ROLE, NOTHING)})
WORKLOAD = record(
    {**CLUSTER, "pod": text(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"), "pod_uid": text(r"[0-9A-Za-z-]{1,64}")}
)
APPROVAL = record(
    {
        "dataset": NAME,
        "key_service": HEX32,
        "application": HEX32,
        "access": one_of("read", "write"),
        "evidence_policy_hash": text(r"[A-Za-z0-9_-]{43}"),
        "attestation_issuer": URL,
        "hardware": HARDWARE,
        "submitters": array(HEX32, 1, 64),
        "issued_at": TIME,
    },
    {
        **FIRST,
        "platform": either(NOTHING, PLATFORM),
        "tees": array(TEE, 1, 3),
        "max_runs": whole(1, 1_000_000),
        "not_after": either(TIME, NOTHING),
        "recipients": array(mapping(TEXT, TEXT), most=64),
        "columns": array(text(r"[^\W\d][\w-]{0,62}"), most=1000),
        "back_end": one_of("strongroom", *VAULTS),
        "not_before": either(TIME, NOTHING),
        "max_executors": either(whole(1, 10_000), NOTHING),
        "max_executors_total": either(whole(1, 1_000_000), NOTHING),
        "max_duration_s": either(whole(60, 366 * 24 * 3600), NOTHING),
        "versions": either(NOTHING, record({"first": whole(1), "last": either(NOTHING, whole(1))})),
        "writers": either(NOTHING, array(text(r"(owner|application):[0-9a-f]{64}"), 1, 64)),
        "purpose": text(most=500),
        "roster": either(HEX32, NOTHING),
        "shape": either(one_of("process"), NOTHING),
        "shapes": array(one_of("process", "pod", "confidential-node"), most=3),
        "workloads": array(WORKLOAD_DEMAND, most=64),
    },
)
VAULT_KEY = record(
    {
        **FIRST,
        "kind": one_of(*VAULTS),
        "url": ORIGIN,
        "key": text(r"[0-9A-Za-z-]{1,127}"),
        "key_version": HEX16,
        "kty": one_of("RSA", "RSA-HSM", "oct", "oct-HSM"),
        "public_jwk": either(NOTHING, mapping(TEXT, TEXT)),
        "check_value": either(NOTHING, HEX32),
        "roots": array(HEX32, 1, 16),
        "owners": array(HEX32, 1, 64),
    }
)
ROSTER = record(
    {
        "key_service": HEX32,
        "dataset": NAME,
        "number": whole(1, 256),
        "previous": either(HEX32, NOTHING),
        "members": array(mapping(TEXT, TEXT), 1, 32),
        "threshold": whole(1, 32),
        "issued_at": TIME,
    },
    {**FIRST, "keeps_approvals": FLAG},
)
SERVICE = record(
    {
        "service": one_of("attestation-service", "key-service"),
        "url": URL,
        "identity": HEX32,
        "certificate_pem": TEXT,
        "mode": MODE,
        "measurement": either(HEX32, NOTHING),
        "configuration": HEX32,
        "log_key": either(TEXT, NOTHING),
    },
    {
        "master_key": either(NOTHING, HOLDER),
        "witnesses": array(TEXT, most=32),
        "witnesses_required": whole(0, 32),
        "predecessors": array(HEX32),
        "cluster_url": either(URL, NOTHING),
    },
)
ANCHORS = {
    "hardware": HARDWARE,
    "roots": array(record({"certificate_pem": TEXT, "simulated": FLAG})),
    "services": array(SERVICE),
    "owners": array(HEX32),
    "agent_measurements": array(HEX32),
}
ENDORSEMENT_SERVERS = record(
    {}, {"pcs": either(URL, NOTHING), "kds": either(URL, NOTHING), "authorities_pem": either(TEXT, NOTHING)}
)
PROVIDER = record(
    {
        "address": record(
            {"kind": one_of("azure-attestation"), "url": ORIGIN},
            {"authorities_pem": either(TEXT, NOTHING), "endorsements": ENDORSEMENT_SERVERS},
        ),
        "certificates": array(HEX32, 1, 256),
    }
)
MORE_ANCHORS = {
    "agent_mrtds": array(HEX48),
    "agent_launch_digests": array(HEX48),
    "azure_attestation": array(PROVIDER, most=16),
    "pods": array(
        record(
            {"tee": one_of("tdx", "snp"), "measurement": HEX48},
            {
                "configuration": either(HEX32, NOTHING),
                "template": either(HEX32, NOTHING),
                "image": either(text(r"sha256:[0-9a-f]{64}"), NOTHING),
            },
        ),
        most=1024,
    ),
    "nodes": array(record({"tee": one_of("tdx", "snp"), "measurement": HEX48}), most=1024),
}
PARTNER = record({"name": NAME, "accept_results": FLAG, "anchors": record(ANCHORS, MORE_ANCHORS)})
TRUST = record(ANCHORS, {**FIRST, **MORE_ANCHORS, "partners": array(PARTNER, most=63)})
LEVEL = {"tcbDate": TIME, "tcbStatus": one_of(
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
    "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked",
)}  # fmt: skip
ADVISORIES = {"advisoryIDs": array(TEXT)}
COMPONENTS = array(record({"svn": whole(0, 0xFF)}, {"category": TEXT, "type": TEXT}), 16, 16)
ENCLAVE_LEVELS = array(record({"tcb": record({"isvsvn": whole(0, 0xFFFF)}), **LEVEL}, ADVISORIES), 1)
PLATFORM_LEVELS = array(
    record(
        {
            "tcb": record(
                {"sgxtcbcomponents": COMPONENTS, "pcesvn": whole(0, 0xFFFF)}, {"tdxtcbcomponents": COMPONENTS}
            ),
            **LEVEL,
        },
        ADVISORIES,
    ),
    1,
)


def digits(count: int) -> Shape:
    """Hexadecimal text of a size, in either case, as the vendor writes it."""
    return text(f"[0-9A-Fa-f]{{{count}}}")


MODULE = {"mrsigner": digits(96), "attributes": digits(16), "attributesMask": digits(16)}
TCB_INFO = record(
    {
        "id": one_of("SGX", "TDX"),
        "version": one_of(3),
        "issueDate": TIME,
        "nextUpdate": TIME,
        "fmspc": digits(12),
        "pceId": digits(4),
        "tcbType": one_of(0),
        "tcbEvaluationDataNumber": NUMBER,
        "tcbLevels": PLATFORM_LEVELS,
    },
    {
        "tdxModule": record(MODULE),
        "tdxModuleIdentities": array(
            record({**MODULE, "id": text(r"TDX_[0-9A-Fa-f]{2}"), "tcbLevels": ENCLAVE_LEVELS})
        ),
    },
)
QE_IDENTITY = record(
    {
        "id": one_of("QE", "TD_QE"),
        "version": one_of(2),
        "issueDate": TIME,
        "nextUpdate": TIME,
        "tcbEvaluationDataNumber": NUMBER,
        "miscselect": digits(8),
        "miscselectMask": digits(8),
        "attributes": digits(32),
        "attributesMask": digits(32),
        "mrsigner": digits(64),
        "isvprodid": whole(0, 0xFFFF),
        "tcbLevels": ENCLAVE_LEVELS,
    }
)
DCAP_ENDORSEMENTS = record(
    dict.fromkeys(
        (
            "pck_crl_issuer_chain",
            "root_ca_crl",
            "pck_crl",
            "tcb_info_issuer_chain",
            "tcb_info",
            "tcb_info_signature",
            "qe_identity_issuer_chain",
            "qe_identity",
            "qe_identity_signature",
        ),
        TEXT,
    )
)


# === 3. Keys and signatures ===========================================================================================


def spki(key: Any) -> bytes:  # noqa: ANN401 - one of the library's public keys
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def thumbprint(key: Any) -> str:  # noqa: ANN401
    """How keys are named everywhere: SHA-256 of the SubjectPublicKeyInfo, hexadecimal."""
    return sha256(spki(key))


def key_of_jwk(jwk: dict) -> Any:  # noqa: ANN401
    """Read a public JWK."""
    if jwk.get("kty") == "EC" and jwk.get("crv") in ("P-256", "P-384"):
        curve, size = (ec.SECP256R1(), 32) if jwk["crv"] == "P-256" else (ec.SECP384R1(), 48)
        x, y = unbase64url(jwk["x"]), unbase64url(jwk["y"])
        demand_true(len(x) == len(y) == size, "a coordinate of another size")
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    if jwk.get("kty") == "OKP" and jwk.get("crv") == "Ed25519":
        return ed25519.Ed25519PublicKey.from_public_bytes(unbase64url(jwk["x"]))
    if jwk.get("kty") == "RSA":
        n, e = (int.from_bytes(unbase64url(jwk[name]), "big") for name in ("n", "e"))
        return rsa.RSAPublicNumbers(e, n).public_key()
    raise DoesNotHoldError("a key of an unknown kind")


def algorithm_of(key: Any) -> str:  # noqa: ANN401
    """The one JOSE algorithm that a key is used with."""
    if isinstance(key, ec.EllipticCurvePublicKey):
        return {"secp256r1": "ES256", "secp384r1": "ES384"}[key.curve.name]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    demand_true(isinstance(key, rsa.RSAPublicKey) and 2048 <= key.key_size <= 16384, "a key of an unknown kind")
    return "RS256"


def verify_signature(key: Any, data: bytes, signature: bytes) -> None:  # noqa: ANN401
    """Check a signature in JOSE's form: ECDSA as `r || s`."""
    algorithm = algorithm_of(key)
    try:
        if algorithm in ("ES256", "ES384"):
            size, digest = (32, hashes.SHA256()) if algorithm == "ES256" else (48, hashes.SHA384())
            demand_true(len(signature) == 2 * size, "a signature of another size")
            r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
            key.verify(encode_dss_signature(r, s), data, ec.ECDSA(digest))
        elif algorithm == "Ed25519":
            key.verify(signature, data)
        else:
            key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature as error:
        raise DoesNotHoldError("a signature does not hold") from error


def jws_parts(token: str) -> tuple[dict, bytes, bytes, bytes]:
    """Split a compact JWS: header, payload, signature, what is signed."""
    parts = token.split(".")
    demand_true(len(parts) == 3 and len(token) <= 256 << 10, "not a compact JWS")
    header, payload, signature = (unbase64url(part) for part in parts)
    return parse_json(header), payload, signature, f"{parts[0]}.{parts[1]}".encode("ascii")


def verify_jws(token: str, key: Any, typ: str) -> bytes:  # noqa: ANN401
    """Check a compact JWS with the key's own algorithm, never the token's word for one; return the payload."""
    header, payload, signature, signed = jws_parts(token)
    demand("algorithm of a token", algorithm_of(key), header.get("alg"))
    demand_true("crit" not in header and "b64" not in header, "a token with a critical header")
    demand("type of a token", typ, header.get("typ"))
    verify_signature(key, signed, signature)
    return payload


# === 4. Certificates (RFC 5280) =======================================================================================

STRONGROOM_ARC = "2.25.247758241752229457238379220332895467469"
SIMULATED_HARDWARE = f"{STRONGROOM_ARC}.1"
SIGNS_STATEMENTS = f"{STRONGROOM_ARC}.2"
UNDERSTOOD = {
    oid.dotted_string
    for oid in (
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    )
}


def load_certificate(der: bytes) -> x509.Certificate:
    """Read a certificate; its signature must not have "unused bits", whose number nothing signs."""
    certificate = x509.load_der_x509_certificate(der)
    demand_true(der.endswith(b"\0" + certificate.signature), "a certificate's signature has unused bits")
    return certificate


def load_pem(pem: str) -> list[bytes]:
    """Read the certificates of a PEM text."""
    certificates = x509.load_pem_x509_certificates(pem.encode("ascii"))
    return [each.public_bytes(serialization.Encoding.DER) for each in certificates]


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def vendor_extension(certificate: x509.Certificate, oid: str) -> bytes | None:
    """The DER value of an extension that the library does not interpret."""
    for found in certificate.extensions:
        if found.oid.dotted_string == oid and isinstance(found.value, x509.UnrecognizedExtension):
            return found.value.value
    return None


def extension_of(certificate: x509.Certificate, kind: type) -> Any:  # noqa: ANN401
    """The value of an extension that the library interprets."""
    return next((found.value for found in certificate.extensions if isinstance(found.value, kind)), None)


def valid_at(start: datetime, end: datetime | None, now: datetime, what: str) -> None:
    """Refuse what does not hold at a time."""
    demand_true(end is not None and start <= now <= end, f"{what} is not valid at {now:%Y-%m-%dT%H:%M:%SZ}")


def verify_chain(
    chain_der: Sequence[bytes],
    *,
    roots: Sequence[bytes],
    crls: Sequence[bytes] | None,
    now: datetime,
    understood_in_root: str | None = None,
    leaf_is_listed: bool = True,
) -> x509.Certificate:
    """Check a chain, leaf first: ends at a root, signatures, validity, CAs where CAs belong, revocation."""
    certificates = [load_certificate(der) for der in chain_der]
    demand_true(len(certificates) >= 2, "a certificate chain needs a leaf and a root")
    demand_true(chain_der[-1] in roots, "a certificate chain ends at a root that is not trusted")
    issuers = [*certificates[1:], certificates[-1]]
    for position, (certificate, issuer) in enumerate(zip(certificates, issuers)):
        try:
            certificate.verify_directly_issued_by(issuer)
        except InvalidSignature as error:
            raise DoesNotHoldError("a certificate was not signed by the next one of its chain") from error
        valid_at(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now, "a certificate")
        known = UNDERSTOOD | ({understood_in_root} if certificate is certificates[-1] else set())
        critical = {found.oid.dotted_string for found in certificate.extensions if found.critical}
        demand_true(critical <= known, "a certificate has a critical extension that is not known")
        check_place(certificate, position)
        if crls is not None and (leaf_is_listed or position > 0):
            check_revocation(certificate, issuer, crls, now)
    return certificates[0]


def check_place(certificate: x509.Certificate, position: int) -> None:
    """Only those behind the first are CAs, may sign certificates, and allow the chain's length."""
    constraints = extension_of(certificate, x509.BasicConstraints)
    is_ca = constraints is not None and constraints.ca
    demand_true(is_ca == (position > 0), "a certificate stands in the wrong place of its chain")
    if is_ca:
        usage = extension_of(certificate, x509.KeyUsage)
        demand_true(usage is not None and usage.key_cert_sign, "a certificate may not sign certificates")
        length = constraints.path_length
        demand_true(length is None or length >= position - 1, "a chain is longer than one of its CAs allows")


def check_revocation(
    certificate: x509.Certificate, issuer: x509.Certificate, crls: Sequence[bytes], now: datetime
) -> None:
    """The issuer's list is signed by it, holds at the time, and does not name the certificate."""
    for der in crls:
        crl = x509.load_der_x509_crl(der)
        demand_true(der.endswith(b"\0" + crl.signature), "a revocation list's signature has unused bits")
        if crl.issuer != issuer.subject:
            continue
        demand_true(crl.is_signature_valid(issuer.public_key()), "a revocation list is not signed by its issuer")
        extensions = [*crl.extensions, *(each for revoked in crl for each in revoked.extensions)]
        demand_true(not any(each.critical for each in extensions), "a revocation list cannot be understood")
        valid_at(crl.last_update_utc, crl.next_update_utc, now, "a revocation list")
        revoked = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
        demand_true(revoked is None, "a certificate is revoked")
        return
    raise DoesNotHoldError("there is no revocation list for a certificate")


def verify_leaf(chain_der: Sequence[bytes], identities: Sequence[str], now: datetime) -> Any:  # noqa: ANN401
    """Check a signing certificate that a service's pinned identity issued; return its key."""
    demand_true(len(chain_der) == 2, "a service's signing certificate comes with its identity's")
    identity = thumbprint(load_certificate(chain_der[1]).public_key())
    demand_true(identity in identities, "a signing certificate was not issued by the pinned identity")
    leaf = verify_chain(chain_der, roots=[chain_der[1]], crls=None, now=now)
    usages = extension_of(leaf, x509.ExtendedKeyUsage)
    demand("use of a certificate", [SIGNS_STATEMENTS], [each.dotted_string for each in usages or ()])
    return leaf.public_key()


def trusted_root(trust: dict, der: bytes) -> tuple[str, str | None]:
    """Find a root in the trust file: the word for its hardware, and the critical extension that it may have.

    A simulated root says so itself, and the trust file must say the same: neither word alone is enough.
    """
    found = None
    for entry in trust["roots"]:
        root = load_pem(entry["certificate_pem"])[0]
        marked = vendor_extension(load_certificate(root), SIMULATED_HARDWARE) is not None
        demand("mark of a simulated root in the trust file", entry["simulated"], marked)
        if root == der and found is None:
            found = ("simulated", SIMULATED_HARDWARE) if marked else ("real", None)
    if found is None:
        raise DoesNotHoldError("the evidence was made under a root that is not trusted")
    return found


# === 5. DER, as far as the vendors' extensions need it ================================================================


def der_elements(data: bytes) -> list[tuple[int, bytes]]:
    """Read elements that stand one after another: tags and contents; lengths in their shortest form."""
    elements, offset = [], 0
    while offset < len(data):
        tag, size, offset = data[offset], data[offset + 1], offset + 2
        demand_true(tag & 0x1F != 0x1F, "DER: an unknown kind of tag")
        if size & 0x80:
            length = data[offset : offset + (size & 0x7F)]
            demand_true(1 <= len(length) == size & 0x7F <= 4 and length[0] > 0, "DER: a malformed length")
            offset, size = offset + len(length), int.from_bytes(length, "big")
            demand_true(size >= 0x80, "DER: a length is not in its shortest form")
        content = data[offset : offset + size]
        demand_true(len(content) == size, "DER: truncated")
        elements.append((tag, content))
        offset += size
    return elements


def der_element(data: bytes, tag: int) -> bytes:
    """Read exactly one element of a tag."""
    ((found, content),) = der_elements(data)
    demand("DER tag", tag, found)
    return content


def der_unsigned(element: tuple[int, bytes]) -> int:
    """Read a non-negative INTEGER or ENUMERATED in its shortest form."""
    tag, content = element
    value = int.from_bytes(content, "big", signed=True)
    shortest = value.to_bytes(value.bit_length() // 8 + 1, "big") if value >= 0 else b""
    demand_true(tag in (0x02, 0x0A) and shortest == content, "DER: not a non-negative integer")
    return value


def octets(element: tuple[int, bytes], size: int) -> bytes:
    """Read an OCTET STRING of a size."""
    demand_true(element[0] == 0x04 and len(element[1]) == size, "DER: not an octet string of that size")
    return element[1]


# === 6. SGX and TDX: DCAP quotes ======================================================================================
# Sources: Intel SGX ECDSA Quote Library Reference, appendix A; Intel TDX DCAP Quoting Library API, appendix A;
# Intel SGX PCK Certificate Profile, 1.3.5; Intel Provisioning Certification Service API, version 4.

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
SGX_EXTENSION = "1.2.840.113741.1.13.1"
SGX_EXTENSION_DER = bytes.fromhex("2a864886f84d010d01")
WORST_LAST = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "Revoked",
)
TD_ATTRIBUTE_BITS = (0, 4, 5, 6, 16, 27, 28, 29, 30, 31, 62, 63)
TD_UNDER_DEBUG = 0xFF


class Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.offset = data, 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        part = self.data[self.offset : self.offset + size]
        demand_true(len(part) == size, "a quote is truncated")
        self.offset += size
        return part

    def number(self, size: int) -> int:
        """Return the next bytes as a little-endian number."""
        return int.from_bytes(self.take(size), "little")

    def finish(self) -> None:
        """Refuse bytes that are left."""
        demand_true(self.offset == len(self.data), "bytes follow the end of a quote")


def read_enclave_report(data: bytes) -> dict:
    """An SGX report body of 384 bytes."""
    part = Bytes(data)
    report = {"cpusvn": part.take(16), "miscselect": part.number(4)}
    reserved = part.take(12)
    part.take(16)  # isv_ext_prod_id
    report.update(attributes=part.take(16), mrenclave=part.take(32))
    reserved += part.take(32)
    report["mrsigner"] = part.take(32)
    reserved += part.take(32)
    report.update(config_id=part.take(64), isv_prod_id=part.number(2), isv_svn=part.number(2))
    part.take(2)  # config_svn
    reserved += part.take(42)
    part.take(16)  # isv_family_id
    report["report_data"] = part.take(64)
    part.finish()
    demand_true(not any(reserved), "a reserved byte of an enclave's report is not zero")
    flags = int.from_bytes(report["attributes"][:8], "little")
    report.update(debug=bool(flags & 0x02), kss=bool(flags & 0x80))
    return report


def read_domain_report(data: bytes) -> dict:
    """A trust domain's report of 584 bytes (TDX 1.0) or 648 (TDX 1.5)."""
    part = Bytes(data)
    report = {"tee_tcb_svn": part.take(16), "mrseam": part.take(48), "mrsignerseam": part.take(48)}
    report.update(seam_attributes=part.take(8), td_attributes=part.number(8), xfam=part.number(8))
    report.update(mrtd=part.take(48), mrconfigid=part.take(48))
    part.take(48 * 6)  # mrowner, mrownerconfig, rtmr 0 to 3
    report["report_data"] = part.take(64)
    report["tee_tcb_svn2"] = part.take(16) if len(data) == 648 else None
    if len(data) == 648:
        part.take(48)  # mrservicetd
    part.finish()
    known = sum(1 << bit for bit in TD_ATTRIBUTE_BITS)
    demand_true(not report["td_attributes"] & ~known, "a reserved bit of a trust domain's attributes is set")
    return report


def read_quote(kind: str, data: bytes) -> dict:
    """A quote of an enclave (version 3) or of a trust domain (version 4 or 5)."""
    demand_true(len(data) <= 64 << 10, "a quote is too large")
    whole_quote = Bytes(data)
    header = Bytes(whole_quote.take(48))
    version, key_type, tee_type, reserved = header.number(2), header.number(2), header.number(4), header.number(4)
    demand("quoting enclave's vendor", INTEL_QE_VENDOR, header.take(16))
    demand("key type of a quote", 2, key_type)
    demand("kind of TEE of a quote", {"sgx": 0, "tdx": 0x81}[kind], tee_type)
    demand_true(version in ((3,) if kind == "sgx" else (4, 5)), "a quote of a version that is not accepted")
    demand_true(version == 3 or not reserved, "a reserved byte of a quote's header is not zero")
    size = 384 if kind == "sgx" else 584
    if version == 5:
        body_kind, size = whole_quote.number(2), whole_quote.number(4)
        demand("body of a quote", {2: 584, 3: 648}.get(body_kind), size)
    report = whole_quote.take(size)
    signed = data[: whole_quote.offset]
    signature = Bytes(whole_quote.take(whole_quote.number(4)))
    if kind == "sgx" or any(data[whole_quote.offset :]):  # some makers fill a trust domain's quote up with zeros
        whole_quote.finish()
    quote = {
        "report": (read_enclave_report if kind == "sgx" else read_domain_report)(report),
        "signed": signed,
        "signature": signature.take(64),
        "attestation_key": signature.take(64),
    }
    certification = signature
    if version >= 4:
        demand("certification data of a quote", 6, signature.number(2))
        certification = Bytes(signature.take(signature.number(4)))
        signature.finish()
    qe_report = certification.take(384)
    quote.update(qe_report_bytes=qe_report, qe_report=read_enclave_report(qe_report))
    quote["qe_signature"] = certification.take(64)
    quote["qe_auth_data"] = certification.take(certification.number(2))
    demand("certificates of a quote", 5, certification.number(2))
    pem = certification.take(certification.number(4)).rstrip(b"\x00")
    certification.finish()
    quote["chain"] = load_pem(pem.decode("ascii"))
    demand("certificates of a PCK chain", 3, len(quote["chain"]))
    return quote


def sgx_members(sequence: bytes, prefix: bytes) -> dict:
    """The members of Intel's extension, by the last number of their object identifiers."""
    members: dict = {}
    for tag, pair in der_elements(sequence):
        demand("member of the SGX extension", 0x30, tag)
        (name_tag, name), value = der_elements(pair)
        demand_true(name_tag == 0x06 and name[:-1] == prefix and name[-1] < 0x80, "a foreign member of the extension")
        demand_true(name[-1] not in members, "a repeated member of the SGX extension")
        members[name[-1]] = value
    return members


def read_pck(certificate: x509.Certificate) -> dict:
    """What a PCK certificate says about its platform."""
    extension = vendor_extension(certificate, SGX_EXTENSION)
    demand_true(extension is not None, "not a PCK certificate")
    members = sgx_members(der_element(extension or b"", 0x30), SGX_EXTENSION_DER)
    demand_true(members[2][0] == 0x30, "the SGX extension is malformed")
    tcb = sgx_members(members[2][1], SGX_EXTENSION_DER + b"\x02")
    octets(members[1], 16)
    octets(tcb[18], 16)
    der_unsigned(members[5])
    return {
        "components": [der_unsigned(tcb[number]) for number in range(1, 17)],
        "pce_svn": der_unsigned(tcb[17]),
        "pceid": octets(members[3], 2).hex(),
        "fmspc": octets(members[4], 6).hex(),
    }


def verify_quote(kind: str, data: bytes, *, endorsements: dict, trust: dict, now: datetime) -> tuple[dict, str]:
    """Verify an SGX or TDX quote; return its report, and the word for its hardware.

    1. No debug enclave; no trust domain that its host can look into, take pages from unnoticed, or move.
    2. The PCK certificate's chain ends at a trusted root, and none of it is revoked.
    3. TCB info and QE identity are the vendor's, for this kind of TEE, and hold at the time.
    4. The PCK signed the quoting enclave's report, that names the attestation key, and this signed the quote.
    5. The quoting enclave is the vendor's.
    6. Platform, quoting enclave and TDX module reach a TCB level that is not revoked.
    """
    quote = read_quote(kind, data)
    report = quote["report"]
    if kind == "sgx":  # 1
        demand_true(not report["debug"], "the evidence is of a debug enclave")
    else:
        attributes = report["td_attributes"]
        demand_true(not attributes & TD_UNDER_DEBUG, "the evidence is of a trust domain under debug")
        demand_true(bool(attributes & 1 << 28), "the host can take pages of the trust domain away unnoticed")
        demand_true(not attributes & 1 << 29, "the trust domain can be moved to another machine")
    chain = quote["chain"]  # 2
    hardware, mark = trusted_root(trust, chain[-1])
    crls = [unhex(endorsements["root_ca_crl"]), unhex(endorsements["pck_crl"])]
    options = {"roots": [chain[-1]], "crls": crls, "now": now, "understood_in_root": mark}
    leaf = verify_chain(chain, **options)
    demand("CA of the PCK revocation list", chain[1:], load_pem(endorsements["pck_crl_issuer_chain"]))
    tcb_info = vendor_document(endorsements, "tcb_info", TCB_INFO, options)  # 3
    identity = vendor_document(endorsements, "qe_identity", QE_IDENTITY, options)
    demand("kind of the TCB info", {"sgx": "SGX", "tdx": "TDX"}[kind], tcb_info["id"])
    demand("kind of the QE identity", {"sgx": "QE", "tdx": "TD_QE"}[kind], identity["id"])
    verify_signature(leaf.public_key(), quote["qe_report_bytes"], quote["qe_signature"])  # 4
    named = hashlib.sha256(quote["attestation_key"] + quote["qe_auth_data"]).digest() + bytes(32)
    demand("attestation key that the quoting enclave vouches for", named, quote["qe_report"]["report_data"])
    point = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote["attestation_key"])
    verify_signature(point, quote["signed"], quote["signature"])
    check_quoting_enclave(quote["qe_report"], identity)  # 5
    check_tcb(read_pck(leaf), tcb_info, identity, quote["qe_report"]["isv_svn"], report if kind == "tdx" else None)  # 6
    return report, hardware


def vendor_document(endorsements: dict, name: str, shape: Shape, options: dict) -> dict:
    """A document that a key signed which the vendor's root itself certifies, and that holds at the time."""
    chain = load_pem(endorsements[f"{name}_issuer_chain"])
    demand("certificates of an endorsement's signer", 2, len(chain))
    signer = verify_chain(chain, **options)
    signed = endorsements[name].encode("utf-8")
    verify_signature(signer.public_key(), signed, unhex(endorsements[f"{name}_signature"]))
    document = read(parse_json(signed), shape, f"the vendor's {name}")
    valid_at(moment(document["issueDate"]), moment(document["nextUpdate"]), options["now"], f"the vendor's {name}")
    return document


def masked(value: bytes, mask: bytes) -> bytes:
    """The bits that count."""
    return bytes(left & right for left, right in zip(value, mask))


def check_quoting_enclave(report: dict, identity: dict) -> None:
    """The quoting enclave is the one that the vendor describes, and not a debug one."""
    mask, misc_mask = bytes.fromhex(identity["attributesMask"]), int(identity["miscselectMask"], 16)
    demand("quoting enclave's signer", identity["mrsigner"].lower(), report["mrsigner"].hex())
    demand("quoting enclave's product", identity["isvprodid"], report["isv_prod_id"])
    wanted = masked(bytes.fromhex(identity["attributes"]), mask)
    demand("quoting enclave's attributes", wanted, masked(report["attributes"], mask))
    wanted_misc = int(identity["miscselect"], 16) & misc_mask
    demand("quoting enclave's miscselect", wanted_misc, report["miscselect"] & misc_mask)
    demand_true(not report["debug"], "the quoting enclave is a debug enclave")


def check_tcb(pck: dict, tcb_info: dict, identity: dict, qe_svn: int, domain: dict | None) -> None:
    """Platform, quoting enclave and TDX module reach a TCB level of the vendor's that is not revoked.

    A trust domain of TDX 1.5 has two versions of its module, of its launch and of now: both must.
    """
    demand("platform family", tcb_info["fmspc"].lower(), pck["fmspc"])
    demand("platform's PCE", tcb_info["pceId"].lower(), pck["pceid"])
    if domain is not None:
        check_tdx_module(domain, tcb_info)
    enclave = enclave_level(qe_svn, identity["tcbLevels"])
    versions = [None] if domain is None else [domain["tee_tcb_svn"], domain["tee_tcb_svn2"]]
    for number, tdx_svn in enumerate(versions):
        if number and tdx_svn is None:
            continue  # TDX 1.0 has one version
        statuses = [platform_level(pck, tcb_info, tdx_svn), enclave]
        module = None if tdx_svn is None else tdx_module(tdx_svn, tcb_info)
        if module is not None and tdx_svn is not None:
            statuses.append(enclave_level(tdx_svn[0], module["tcbLevels"]))
        worst = max(statuses, key=WORST_LAST.index)
        demand_true(worst != "Revoked", "the vendor has revoked this platform's TCB level")


def platform_level(pck: dict, tcb_info: dict, tdx_svn: bytes | None) -> str:
    """The status of the first level that the platform reaches."""
    for level in tcb_info["tcbLevels"]:
        tcb = level["tcb"]
        reached = [have >= need["svn"] for have, need in zip(pck["components"], tcb["sgxtcbcomponents"])]
        reached.append(pck["pce_svn"] >= tcb["pcesvn"])
        if tdx_svn is not None:
            # A module with a version of its own is judged by its own levels: its two bytes are not the platform's.
            start, needs = (2 if tdx_svn[1] else 0), tcb.get("tdxtcbcomponents")
            reached.append(needs is not None)
            reached += [have >= need["svn"] for have, need in zip(tdx_svn[start:], (needs or [])[start:])]
        if all(reached):
            return level["tcbStatus"]
    raise DoesNotHoldError("the platform reaches none of the vendor's TCB levels")


def enclave_level(svn: int, levels: Sequence[dict]) -> str:
    """The status of the highest level that an enclave, or a TDX module, reaches."""
    for level in sorted(levels, key=lambda level: level["tcb"]["isvsvn"], reverse=True):
        if svn >= level["tcb"]["isvsvn"]:
            return level["tcbStatus"]
    raise DoesNotHoldError("the quoting enclave or the TDX module reaches none of the vendor's TCB levels")


def tdx_module(tdx_svn: bytes, tcb_info: dict) -> dict | None:
    """The vendor's word on a TDX module; None for the first one, which has none of its own."""
    if not tdx_svn[1]:
        return None
    for found in tcb_info.get("tdxModuleIdentities", []):
        if found["id"].upper() == f"TDX_{tdx_svn[1]:02X}":
            return found
    raise DoesNotHoldError("the vendor does not know the TDX module")


def check_tdx_module(domain: dict, tcb_info: dict) -> None:
    """The trust domain was launched on the vendor's TDX module."""
    module = tdx_module(domain["tee_tcb_svn"], tcb_info) or tcb_info.get("tdxModule")
    if module is None:
        raise DoesNotHoldError("the vendor does not know the first TDX module")
    wanted = masked(bytes.fromhex(module["attributes"]), bytes.fromhex(module["attributesMask"]))
    demand("TDX module's signer", module["mrsigner"].lower(), domain["mrsignerseam"].hex())
    demand("TDX module's attributes", wanted, domain["seam_attributes"])


# === 7. SEV-SNP reports ===============================================================================================
# Sources: AMD, SEV-SNP Firmware ABI (56860), ATTESTATION_REPORT; AMD, VCEK Certificate and KDS Specification (57230).

AMD_ARC = "1.3.6.1.4.1.3704.1"
PRODUCTS = {(0x19, 0x0): "Milan", (0x19, 0x1): "Genoa", (0x1A, 0x0): "Turin"}
SNP_SIGNERS = {0: "VCEK", 1: "VLEK"}


def read_snp_report(data: bytes) -> dict:
    """A report of 1184 bytes, version 2, 3 or 5."""
    demand("size of an SEV-SNP report", 0x4A0, len(data))
    number = lambda start, size: int.from_bytes(data[start : start + size], "little")  # noqa: E731 - offsets as in the ABI
    version, policy, signer, platform_info = number(0, 4), number(8, 8), number(0x48, 4), number(0x40, 8)
    demand_true(version in (2, 3, 5), "an SEV-SNP report of an unknown version")
    demand("signature algorithm of an SEV-SNP report", 1, number(0x34, 4))
    demand_true(not policy >> 26 and bool(policy & 1 << 17), "a reserved bit of the guest policy has the wrong value")
    demand_true(not platform_info & ~0xBF, "a reserved bit of the platform info is set")
    demand_true(not signer & ~0x1F and signer >> 2 in SNP_SIGNERS, "the report is signed by nobody that is known")
    reserved = data[0x4C:0x50] + data[0x18B:0x1A0] + data[0x208:0x2A0] + data[0x1EB:0x1EC] + data[0x1EF:0x1F0]
    if version < 3:
        reserved += data[0x188:0x18B]
    if version < 5:
        reserved += data[0x1F8:0x208]
    r, s = data[0x2A0:0x2E8], data[0x2E8:0x330]
    demand_true(not any(reserved + r[48:] + s[48:] + data[0x330:]), "a reserved byte of the report is not zero")
    family, model = data[0x188], data[0x189]
    return {
        "debug": bool(policy & 1 << 19),
        "signer": SNP_SIGNERS[signer >> 2],
        "chip_is_masked": bool(signer & 2),
        "vmpl": number(0x30, 4),
        "report_data": data[0x50:0x90],
        "measurement": data[0x90:0xC0],
        "host_data": data[0xC0:0xE0],
        "current_tcb": data[0x38:0x40],
        "reported_tcb": data[0x180:0x188],
        "committed_tcb": data[0x1E0:0x1E8],
        "launch_tcb": data[0x1F0:0x1F8],
        "product": PRODUCTS.get((family, model >> 4), "unknown") if version >= 3 else None,
        "chip_id": data[0x1A0:0x1E0],
        "signed": data[:0x2A0],
        "signature": r[47::-1] + s[47::-1],
    }


def tcb_parts(data: bytes, product: str) -> tuple[int, ...]:
    """A TCB version: first mutable code, boot loader, TEE, SNP firmware, microcode."""
    if product == "Turin":
        fmc, boot_loader, tee, snp, *reserved, microcode = data
    else:
        boot_loader, tee, *reserved, snp, microcode = data
        fmc = 0
    demand_true(not any(reserved), "a reserved byte of a TCB version is not zero")
    return fmc, boot_loader, tee, snp, microcode


def verify_snp(data: bytes, chain_pem: str, *, crl: bytes, trust: dict, now: datetime) -> tuple[dict, str]:
    """Verify an SEV-SNP report; return it, and the word for its hardware.

    1. The signing key's chain ends at a trusted root, whose list revokes none of its CAs.
    2. The certificate is of the key, the product, the chip and the TCB version that the report names.
    3. That key signed the report.
    4. No TCB version in the report is newer than the one that runs.
    5. No guest that may be debugged.
    """
    report, chain = read_snp_report(data), load_pem(chain_pem)
    demand("certificates of an SEV-SNP signing key", 3, len(chain))  # 1
    hardware, mark = trusted_root(trust, chain[-1])
    leaf = verify_chain(chain, roots=[chain[-1]], crls=[crl], now=now, understood_in_root=mark, leaf_is_listed=False)
    product = check_amd_certificate(report, leaf, authorities=[load_certificate(der) for der in chain[1:]])  # 2
    verify_signature(leaf.public_key(), report["signed"], report["signature"])  # 3
    runs = tcb_parts(report["current_tcb"], product)  # 4
    for name in ("reported_tcb", "committed_tcb", "launch_tcb"):
        newer = any(part > most for part, most in zip(tcb_parts(report[name], product), runs))
        demand_true(not newer, "the report names a newer TCB version than the one that runs")
    demand_true(not report["debug"], "the evidence is of a guest that may be debugged")  # 5
    return report, hardware


def check_amd_certificate(report: dict, leaf: x509.Certificate, authorities: Sequence[x509.Certificate]) -> str:
    """Compare report and certificate; return the product."""
    kind = {"SEV-VCEK": "VCEK", "SEV-VLEK": "VLEK"}.get(common_name(leaf), "of no SEV-SNP key")
    demand("signing key of the report", kind, report["signer"])
    product = der_element(amd_extension(leaf, "2"), 0x16).decode("ascii").partition("-")[0]
    demand_true(product in PRODUCTS.values(), "the signing key is of an unknown product")
    authority = f"SEV-{product}" if kind == "VCEK" else f"SEV-VLEK-{product}"
    demand("issuer of the signing key", authority, common_name(authorities[0]))
    demand("root of the signing key", f"ARK-{product}", common_name(authorities[1]))
    numbers = []
    for name in ("3.9", "3.1", "3.2", "3.3", "3.8"):
        is_named = name != "3.9" or product == "Turin"
        (element,) = der_elements(amd_extension(leaf, name)) if is_named else [(0x02, b"\0")]
        numbers.append(der_unsigned(element))
    demand_true(max(numbers) <= 0xFF, "a security version of the signing key is larger than a byte")
    demand("TCB version of the signing key", tuple(numbers), tcb_parts(report["reported_tcb"], product))
    if report["product"] is not None:
        demand("product of the report", product, report["product"])
    hwid, provider = vendor_extension(leaf, f"{AMD_ARC}.4"), vendor_extension(leaf, f"{AMD_ARC}.5")
    demand_true((kind == "VCEK") == (hwid is not None), "a VCEK names its chip, a VLEK does not")
    demand_true((kind == "VLEK") == (provider is not None), "a VLEK names its cloud provider, a VCEK does not")
    if hwid is not None:
        sizes = (64, 8) if product == "Turin" else (64,)
        chip = hwid if len(hwid) in sizes else der_element(hwid, 0x04)
        demand_true(len(chip) in sizes, "the chip's id has another size")
        expected = bytes(len(chip)) if report["chip_is_masked"] else chip
        demand("chip of the report", expected, report["chip_id"][: len(chip)])
    return product


def amd_extension(certificate: x509.Certificate, name: str) -> bytes:
    """One of AMD's extensions."""
    found = vendor_extension(certificate, f"{AMD_ARC}.{name}")
    if found is None:
        raise DoesNotHoldError("the signing key's certificate lacks an extension")
    return found


# === 8. Azure confidential VMs: the paravisor's report and the vTPM's quote ===========================================
# Sources: Azure confidential VM guest attestation; TCG TPM 2.0 Library, Part 2, 10.12.


def read_hcl_report(data: bytes) -> dict:
    """The paravisor's report: the hardware's report, and a document that names the vTPM's key (AK)."""
    magic, version, _, request_type, _, start = *struct.unpack_from("<4sIIII", data), 1216
    demand_true(magic == b"HCLA" and version in (1, 2) and request_type == 2, "not a paravisor's report")
    _, _, report_type, hash_type, length = struct.unpack_from("<IIIII", data, start)
    kind, size = {2: ("snp", 1184), 4: ("tdx", 1024)}[report_type]
    document, rest = data[start + 20 :][:length], data[start + 20 + length :]
    demand_true(len(document) == length, "a paravisor's report is truncated")
    demand_true(not any(data[32 + size : start] + rest), "a byte of a paravisor's report that should be zero is not")
    said = parse_json(document)
    keys = [key for key in said["keys"] if isinstance(key, dict) and key.get("kid") == "HCLAkPub"]
    demand_true(len(keys) == 1 and keys[0].get("key_ops") == ["sign"], "a paravisor names no key, or several")
    demand_true(isinstance(said["vm-configuration"], dict), "a paravisor names no configuration")
    hashed = {1: hashlib.sha256, 2: hashlib.sha384, 3: hashlib.sha512}[hash_type](document).digest()
    return {
        "kind": kind,
        "hardware_report": data[32 : 32 + size],
        "report_data": hashed.ljust(64, b"\0"),
        "key": key_of_jwk(keys[0]),
        "user_data": unhex(said.get("user-data", "00" * 64).lower(), 64),
    }


def read_tpm_quote(data: bytes) -> dict:
    """TPMS_ATTEST of a quote over registers of the SHA-256 bank: nonce, registers, the digest of their values."""
    part = Bytes(data)
    number = lambda size: int.from_bytes(part.take(size), "big")  # noqa: E731 - as the library's tables read
    demand("kind of a TPM's statement", b"\xffTCG\x80\x18", part.take(6))
    part.take(number(2))  # the signer's qualified name
    nonce = part.take(number(2))
    part.take(16)  # clock, resets, restarts
    demand_true(part.take(1) in (b"\0", b"\1"), "a TPM's quote does not say whether its clock is safe")
    part.take(8)  # firmware version
    demand("banks of a TPM's quote", (1, 0x000B), (number(4), number(2)))
    bits = int.from_bytes(part.take(number(1)), "little")
    digest = part.take(number(2))
    part.finish()
    demand("size of a digest of registers", 32, len(digest))
    return {"nonce": nonce, "pcrs": [each for each in range(bits.bit_length()) if bits >> each & 1], "digest": digest}


def verify_vtpm(evidence: dict, report_data: bytes, runtime_data: bytes) -> None:
    """Check that a VM's vTPM binds the runtime data; the hardware's evidence, with these report data, is verified.

    1. The hardware stands for the paravisor's document, which names the vTPM's key.
    2. That key signed the quote, which stands for exactly the register values that are shown.
    3. The quote's nonce is SHA-256 of the runtime data; the guest's user data, if it gave any, are SHA-512 of them.
    """
    vtpm = evidence["vtpm"]
    hcl, quote = read_hcl_report(unbase64url(vtpm["hcl_report"])), read_tpm_quote(unbase64url(vtpm["tpm_quote"]))
    demand("hardware of a paravisor", hcl["kind"], evidence["kind"])
    if hcl["kind"] == "snp":
        demand("report of a paravisor", hcl["hardware_report"], unbase64url(evidence["quote"]))
    demand("report data of a paravisor", hcl["report_data"], report_data)  # 1
    verify_signature(hcl["key"], unbase64url(vtpm["tpm_quote"]), unbase64url(vtpm["tpm_signature"]))  # 2
    numbers = sorted(map(int, vtpm["pcrs"]))
    demand("registers of a vTPM's quote", quote["pcrs"], numbers)
    values = b"".join(unhex(vtpm["pcrs"][str(number)]) for number in numbers)
    demand("values of a vTPM's registers", quote["digest"], hashlib.sha256(values).digest())
    demand("runtime data of a vTPM's quote", quote["nonce"], hashlib.sha256(runtime_data).digest())  # 3
    users = (bytes(64), hashlib.sha512(runtime_data).digest())
    demand_true(hcl["user_data"] in users, "the hardware's report binds other user data")


# === 9. Initdata: what a pod was launched with ========================================================================
# Source: Confidential Containers, Initdata Specification; of TOML, the one spelling that Strongroom reads.


def read_initdata(document: bytes, kind: str, launched_with: str) -> dict:
    """Read the document that a pod was launched with: its application, and what names the rest of it.

    1. Its hash, cut off or filled up with zeros, is what verified evidence has in MRCONFIGID or HOST_DATA.
    2. `strongroom.json` names the application.
    3. The rest is named by its digest; and where the policy names its image in a line, by digest and image apart.
    """
    demand_true(len(document) <= 64 << 10, "initdata that are too large")
    said = document.decode("utf-8")
    demand_true(not re.search("[\x00-\x08\x0b-\x1f\x7f]", said), "initdata with a character that they cannot have")
    head, found, data = said.partition("\n\n[data]\n")
    lines = dict(line.split(" = ") for line in head.split("\n"))
    demand("members of initdata", (["algorithm", "version"], 2), (sorted(lines), len(head.split("\n"))))
    algorithm = lines["algorithm"].strip('"')
    demand_true(bool(found) and algorithm in ("sha256", "sha384", "sha512"), "not initdata")
    demand("initdata", {"algorithm": f'"{algorithm}"', "version": '"0.1.0"'}, lines)
    size = {"tdx": 48, "snp": 32}[kind]
    fixed = hashlib.new(algorithm, document).digest()[:size].ljust(size, b"\0")
    demand("what a pod was launched with", fixed.hex(), launched_with)  # 1
    entries: dict = {}
    while data.strip("\n"):
        start = re.match(r"""\n*"([A-Za-z0-9][A-Za-z0-9._-]{0,63})" = '''\n""", data)
        demand_true(start is not None, "an entry of initdata that cannot be read")
        value, end, data = data[start.end() :].partition("'''")
        demand_true(bool(end) and data[:1] in ("", "\n"), "an entry of initdata that cannot be read")
        demand_true(start[1] not in entries and len(entries) < 32, "initdata with too many entries")
        entries[start[1]] = value
    launch = parse_json(entries.pop("strongroom.json").encode("utf-8"))  # 2
    read(launch, record({"application": HEX32}, FIRST), "an entry about the application")

    def digest(rest: dict) -> str:
        return sha256(canonical({"version": "0.1.0", "algorithm": algorithm, "data": rest}))

    line, image, template = r"^strongroom_image\b.*$", None, None  # 3
    found_lines = re.findall(line, entries.get("policy.rego", ""), re.MULTILINE)
    if found_lines:
        pattern = r'strongroom_image := "[a-z0-9][a-z0-9._:/-]{0,254}@(sha256:[0-9a-f]{64})"'
        named = re.fullmatch(pattern, found_lines[0])
        demand_true(len(found_lines) == 1 and named is not None, "initdata that name their image in another form")
        image = named[1]
        policy = re.sub(line, 'strongroom_image := ""', entries["policy.rego"], flags=re.MULTILINE)
        template = digest({**entries, "policy.rego": policy})
    return {
        "application": launch["application"],
        "configuration": digest(entries),
        "template": template,
        "image": image,
    }


# === 10. The log: signed notes, checkpoints, inclusion, witnesses =====================================================
# Sources: C2SP signed-note, tlog-checkpoint, tlog-cosignature; RFC 9162, section 2.1.

ED25519_NOTE, COSIGNATURE = b"\x01", b"\x04"


def note_key_id(name: str, kind: bytes, raw: bytes) -> bytes:
    """The four bytes that, with the name, say which key signed."""
    return hashlib.sha256(name.encode("utf-8") + b"\n" + kind + raw).digest()[:4]


def read_vkey(line: str, kind: bytes) -> tuple[str, bytes]:
    """A verification key line of a kind: name and raw Ed25519 key."""
    name, _, rest = line.partition("+")
    identifier, _, material = rest.partition("+")
    decoded = unbase64(material)
    demand_true(decoded[:1] == kind and len(decoded) == 33, f"the verification key of {name} is of another kind")
    demand("id of a verification key", note_key_id(name, kind, decoded[1:]).hex(), identifier)
    return name, decoded[1:]


def read_note(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """A signed note: its text, and name, key id and signature of each of its lines."""
    body, blank, lines = note.rpartition("\n\n")
    demand_true(bool(blank) and note.endswith("\n") and len(note) <= 1 << 20, "not a signed note")
    demand_true(not any(each < " " and each != "\n" for each in body), "a note with control characters")
    signatures = []
    for line in lines.split("\n")[:-1]:
        dash, name, signature = line.split(" ")
        signed = unbase64(signature)
        well_formed = dash == "\u2014" and bool(name) and "+" not in name and len(signed) > 4
        demand_true(well_formed, "a malformed signature line of a note")
        signatures.append((name, signed[:4], signed[4:]))
    demand_true(1 <= len(signatures) <= 100, "a note without signatures")
    return f"{body}\n", signatures


def verify_checkpoint(note: str, *, log_key: str) -> tuple[int, bytes]:
    """A checkpoint that the log's own key signed: size and root."""
    origin, raw = read_vkey(log_key, ED25519_NOTE)
    body, signatures = read_note(note)
    named = (origin, note_key_id(origin, ED25519_NOTE, raw))
    own = [signature for name, key_id, signature in signatures if (name, key_id) == named]
    demand_true(bool(own), "a checkpoint is not signed by the pinned key of the log")
    for signature in own:
        verify_signature(ed25519.Ed25519PublicKey.from_public_bytes(raw), body.encode("utf-8"), signature)
    found_origin, size, root, end = body.split("\n")
    demand_true(end == "" and bool(re.fullmatch(r"0|[1-9][0-9]{0,18}", size)), "not a checkpoint")
    demand("log of a checkpoint", origin, found_origin)
    demand("size of a root hash", 32, len(unbase64(root)))
    return int(size), unbase64(root)


def verify_inclusion(proof: dict, *, log_key: str) -> dict:
    """Check that a leaf is in the log under a signed checkpoint; return what the leaf says."""
    size, root = verify_checkpoint(proof["checkpoint"], log_key=log_key)
    index, last = proof["index"], size - 1
    demand_true(0 <= index < size, "a log entry's index is beyond the tree")
    node = hashlib.sha256(b"\x00" + proof["leaf"].encode("utf-8")).digest()
    for text_hash in proof["path"]:
        sibling = unhex(text_hash, 32)
        demand_true(last > 0, "an inclusion proof is too long")
        if index & 1 or index == last:
            node = hashlib.sha256(b"\x01" + sibling + node).digest()
            while not index & 1 and index:
                index, last = index >> 1, last >> 1
        else:
            node = hashlib.sha256(b"\x01" + node + sibling).digest()
        index, last = index >> 1, last >> 1
    demand_true(last == 0 and node == root, "an inclusion proof does not lead to the log's root")
    return parse_json(proof["leaf"].encode("utf-8"))


def cosigned_by(note: str, witnesses: Iterable[str]) -> list[str]:
    """The names of the known witnesses that cosigned a checkpoint; a key counts once. A false one is refused."""
    body, signatures = read_note(note)
    found, seen = [], set()
    keys = {raw: (name, raw) for name, raw in (read_vkey(line, COSIGNATURE) for line in witnesses)}
    for name, raw in keys.values():
        named = (name, note_key_id(name, COSIGNATURE, raw))
        for signature in (each for signer, key_id, each in signatures if (signer, key_id) == named):
            demand_true(len(signature) == 72, f"the cosignature of {name} has another size")
            seconds = int.from_bytes(signature[:8], "big")
            demand_true(0 < seconds <= 253_402_300_799, f"the cosignature of {name} names no time")
            signed = f"cosignature/v1\ntime {seconds}\n{body}".encode()
            verify_signature(ed25519.Ed25519PublicKey.from_public_bytes(raw), signed, signature[8:])
            if raw not in seen:
                found.append(name)
                seen.add(raw)
    return found


# === 11. The steps of the recipe ======================================================================================

RECEIPT_CONTEXT = b"strongroom receipt 1\n"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
CLAIMS = {
    "sgx": ("sgx", "x-ms-sgx-mrenclave", "x-ms-sgx-config-id", 64, {"x-ms-sgx-is-debuggable": False}),
    "tdx": (
        "tdxvm",
        "tdx_mrtd",
        "tdx_mrconfigid",
        48,
        {
            "tdx_td_attributes_debug": False,
            "dbgstat": "disabled",
            "tdx_td_attributes_septve_disable": True,
            "x-ms-strongroom-migratable": False,
        },
    ),
    "snp": (
        "sevsnpvm",
        "x-ms-sevsnpvm-launchmeasurement",
        "x-ms-sevsnpvm-hostdata",
        32,
        {
            "x-ms-sevsnpvm-is-debuggable": False,
            "x-ms-sevsnpvm-migration-allowed": False,
            "x-ms-sevsnpvm-vmpl": 0,
        },
    ),
}
"""By kind of TEE: attestation type, claim of the measurement, claim of what was fixed at launch and its size, and what
every approval demands."""
ISOLATION = "x-ms-isolation-tee"
SHAPES = ("process", "pod", "confidential-node")
"""Whom a TEE leaves inside with the application, the strongest first (`shape_of_evidence`)."""


REPORT_DATA = {"tdx": "tdx_report_data", "snp": "x-ms-sevsnpvm-reportdata"}
"""By kind of TEE: the claim of what the TEE chose for itself."""


def verify_ticket(body: dict) -> dict:
    """Step 2: the ticket is signed by its submitter, names the application that is shown, and is this run."""
    header = jws_parts(body["ticket"])[0]
    key = key_of_jwk(header["jwk"])
    payload = verify_jws(body["ticket"], key, "strongroom-ticket+jws")
    ticket = read(parse_json(payload), TICKET, "a run ticket")
    moment(ticket["not_after"])
    demand("submitter", ticket["submitter"], thumbprint(key))
    demand("run", sha256(payload), body["run"])
    demand("run id", ticket["run_id"], body["run_id"])
    description = body["application"].encode("utf-8")
    parse_canonical(description)
    demand("application", ticket["application"], sha256(description))
    return ticket


def identities_of(service: dict, until: str | None = None) -> list[str]:
    """The identities that a service has had, oldest first, up to one of them."""
    identities = [*service.get("predecessors", []), service["identity"]]
    return identities if until is None else identities[: identities.index(until) + 1]


def addresses_of(service: dict) -> list[str]:
    """Where a service is reached: by a client, and inside the cluster that it runs in, where that is another one."""
    return [each for each in (service["url"], service.get("cluster_url")) if each is not None]


def parties(trust: dict) -> list[dict]:
    """Everybody's anchors, one's own first. They are never mixed: each party's count for its own services alone."""
    return [trust, *(partner["anchors"] for partner in trust.get("partners", []))]


def check_trust(trust: dict) -> None:
    """Refuse a trust file that contradicts itself."""
    services = [service for party in parties(trust) for service in party["services"]]
    names = [partner["name"] for partner in trust.get("partners", [])]
    demand_true(len(set(names)) == len(names), "two partners of the trust file have one name")
    identities = [service["identity"] for service in services]
    demand_true(len(set(identities)) == len(identities), "a service of the trust file is two parties' at once")
    same = all(party["hardware"] == trust["hardware"] for party in parties(trust))
    demand_true(same, "the parties of the trust file trust different kinds of hardware")
    for pod in (pod for party in parties(trust) for pod in party.get("pods", [])):
        by_configuration = [pod.get(name) is not None for name in ("configuration", "template", "image")]
        what_runs = by_configuration in ([True, False, False], [False, True, True])
        demand_true(what_runs, "a trusted pod is named neither by its configuration nor by template and image")
    for party in parties(trust):
        ours = [each for each in party["services"] if each["service"] == "attestation-service"]
        providers = [provider["address"]["url"] for provider in party.get("azure_attestation", [])]
        urls = [url for each in ours for url in set(addresses_of(each))] + providers
        demand_true(not providers or len(set(urls)) == len(urls), "two attestation services have one address")
    for service in services:
        if service["mode"] == "attested":
            demand_true(service["measurement"] is not None, "an attested service without a measurement is trusted")
            held = service["service"] != "key-service" or service.get("master_key") not in (None, "file")
            demand_true(held, "an attested key service is trusted whose operator holds its master key")


def find_service(trust: dict, kind: str, name: Callable[[dict], bool], what: str) -> tuple[dict, dict]:
    """A service of the trust file, and the party whose it is."""
    for party in parties(trust):
        for service in party["services"]:
            if service["service"] == kind and name(service):
                return service, party
    raise DoesNotHoldError(f"{what} is not in the trust file")


def key_service(trust: dict, identity: str) -> dict:
    """A key service of the trust file, by one of its identities."""
    return owner_of(trust, identity)[0]


def owner_of(trust: dict, identity: str) -> tuple[dict, dict]:
    """A key service of the trust file, and the party whose it is."""
    return find_service(trust, "key-service", lambda each: identity in identities_of(each), "a key service of the run")


def attestation_service(trust: dict, url: str) -> tuple[dict, dict]:
    """The attestation service of the trust file at an address, and the party whose it is.

    It is one of ours, pinned by its identity, or a provider of Azure Attestation, pinned by certificates of its keys.
    """
    for party in parties(trust):
        for service in party["services"]:
            if service["service"] == "attestation-service" and url in addresses_of(service):
                return service, party
        for provider in party.get("azure_attestation", []):
            if provider["address"]["url"] == url:
                return provider, party
    raise DoesNotHoldError("the attestation service of the run is not in the trust file")


def our_key(body: dict, token: str, service: dict, now: datetime) -> Any:  # noqa: ANN401
    """The key that signed a result of a service of ours: its identity certified it."""
    shown = [unbase64url(each) for each in body.get("attestation_certificates", [])]
    kid = jws_parts(token)[0].get("kid")
    signers = [each for each in shown[:-1] if thumbprint(load_certificate(each).public_key()) == kid]
    demand_true(bool(signers), "the receipt holds no certificate of the key that signed a result")
    return verify_leaf([signers[0], shown[-1]], identities_of(service), now)


def azures_key(body: dict, token: str, provider: dict, now: datetime) -> Any:  # noqa: ANN401
    """The key that signed a result of Azure Attestation: its certificate is one that the trust file names."""
    shown = body.get("attestation_keys", {}).get(jws_parts(token)[0].get("kid"))
    demand_true(shown is not None, "the receipt holds no certificate of the key that signed a result")
    der = unbase64url(shown)
    demand_true(sha256(der) in provider["certificates"], "a key of Azure Attestation's is not in the trust file")
    certificate = load_certificate(der)
    valid_at(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now, "a certificate of Azure's")
    return certificate.public_key()


def verify_members(body: dict, log_record: dict, ticket: dict, trust: dict) -> list[dict]:
    """Step 3: every member's attestation result and evidence; returns the results' claims."""
    demand("run of a record", body["run"], log_record["run"])
    members = log_record["members"]
    demand("numbers of the members", list(range(len(members))), [member["number"] for member in members])
    demand("drivers of the run", 1, [member["role"] for member in members].count("driver"))
    return [verify_member(body, member, ticket, trust) for member in members]


def verify_member(body: dict, member: dict, ticket: dict, trust: dict) -> dict:
    """One member: its result is the pinned service's, its evidence verifies, and both say the same."""
    now, kind = moment(member["joined_at"]), member["evidence"]["kind"]
    service, party = attestation_service(trust, body["attestation_service"])
    is_azure = "certificates" in service
    key = (azures_key if is_azure else our_key)(body, member["result"], service, now)
    demand("algorithm of attestation results", "RS256", algorithm_of(key))
    claims = parse_json(verify_jws(member["result"], key, "JWT"))
    demand(
        "issuer of a result", body["attestation_service"] if is_azure else addresses_of(service)[-1], claims.get("iss")
    )
    if is_azure:  # it does not say that hardware is real: all that it vouches for is
        claims = {"x-ms-strongroom-hardware": "real", **claims}
    for name in ("nbf", "exp"):
        demand_true(whole()(claims.get(name)), f"a result without {name}")
    demand_true(claims["nbf"] - 60 <= now.timestamp() < claims["exp"], "a result was not valid when it was used")
    demand_true(isinstance(claims.get("x-ms-policy-hash"), str), "a result names no policy")
    runtime_data = unbase64url(member["evidence"]["runtime_data"])
    demand_true(len(runtime_data) <= 16 << 10, "runtime data that are too large")
    runtime = read(parse_json(runtime_data), RUNTIME_DATA, "runtime data")
    demand_true((runtime["role"] == "executor") == (runtime.get("driver_key") is not None), "a driver's key is amiss")
    measurement, launched_with, hardware = verify_evidence(body, member["evidence"], runtime_data, party, now)
    attestation_type, measured, *_ = CLAIMS[kind]
    shape, initdata = shape_of_evidence(member["evidence"], launched_with, ticket["application"])
    below = claims if member["evidence"].get("vtpm") is None else claims[ISOLATION]
    outer = "azurevm" if member["evidence"].get("vtpm") is not None else attestation_type
    demand("runtime data of a result", runtime, claims.get("x-ms-runtime"))
    demand("run of a member", body["run"], runtime["run"])
    demand("role of a member", member["role"], runtime["role"])
    demand("application of a member", ticket["application"], runtime["application"])
    demand("shape of a member", shape, shape_of_result(claims))
    demand_initdata(claims, member["evidence"], initdata)
    demand("measurement of a result", measurement, below.get(measured))
    demand("hardware of a member", trust["hardware"], hardware)
    demand("hardware of a result", hardware, claims.get("x-ms-strongroom-hardware"))
    said = (claims.get("x-ms-attestation-type"), below.get("x-ms-attestation-type"))
    demand("kind of a result", (outer, attestation_type), said)
    demand_true(not is_azure or below is claims, "Azure Attestation does not say what a vTPM signed")
    named = claims["x-ms-sgx-collateral"]["quotehash"] if kind == "sgx" else claims.get("x-ms-strongroom-quotehash")
    if is_azure and kind != "sgx" and not isinstance(named, str):
        # Azure names the quote for SGX alone; the rest must have the report data, made of keys of this very run.
        report_data = sha256(runtime_data) + "00" * 32
        demand("report data of a result", report_data, claims.get(REPORT_DATA[kind]))
    else:
        demand("quote of a result", sha256(unbase64url(member["evidence"]["quote"])), named)
    trusted = is_trusted(party, kind, shape, measurement, initdata)
    demand_true(trusted, "the run used an agent that is not trusted as what it ran as")
    return claims


def forms(shape: str, kind: str, application: str) -> list[tuple[dict, dict]]:
    """The forms in which results of a shape come: which claims say it, and what every approval demands beside.

    A claim is named by its dotted path. What the hardware below a paravisor says, stands inside another claim.
    """
    attestation_type, _, launched_with, launch_bytes, demanded = CLAIMS[kind]
    named = {"x-ms-attestation-type": attestation_type}
    if shape == "process":
        return [({**named, launched_with: application.ljust(2 * launch_bytes, "0")}, demanded)]
    if kind == "sgx":
        return []
    if shape == "pod":
        return [({**named, "x-ms-strongroom-initdata-application": application}, demanded)]
    ours = "x-ms-strongroom-"
    below = {name if name.startswith(ours) else f"{ISOLATION}.{name}": value for name, value in demanded.items()}
    azure = {
        "x-ms-attestation-type": "azurevm",
        f"{ISOLATION}.x-ms-attestation-type": attestation_type,
        "x-ms-strongroom-runtime-data-attested": True,
    }
    return [({**named, launched_with: "00" * launch_bytes}, demanded), (azure, below)]


def says(claims: dict, wanted: dict) -> bool:
    """Whether a result says all of this; paths are dotted."""
    for path, value in wanted.items():
        found: Any = claims
        for part in path.split("."):
            if not isinstance(found, dict) or part not in found:
                return False
            found = found[part]
        if type(found) is not type(value) or found != value:
            return False
    return True


def shape_of_result(claims: dict) -> str | None:
    """The shape of the TEE that a result is about; None where it is of none."""
    runtime = claims.get("x-ms-runtime")
    application = runtime.get("application") if isinstance(runtime, dict) else None
    if not isinstance(application, str):
        return None
    for shape in SHAPES:
        if any(says(claims, named) for kind in CLAIMS for named, _ in forms(shape, kind, application)):
            return shape
    return None


def shape_of_evidence(evidence: dict, launched_with: str | None, application: str) -> tuple[str, dict | None]:
    """The shape of a TEE, from where its verified evidence has the application digest, and a pod's initdata.

    process: in the field that is fixed at launch. pod: in a document whose hash stands there. confidential-node: in
    runtime data alone; whoever administers the node is inside the TEE.
    """
    kind = evidence["kind"]
    beside = [name for name in ("initdata", "vtpm") if evidence.get(name) is not None]
    demand_true(len(beside) <= (0 if kind == "sgx" else 1), "evidence of several forms at once")
    if evidence.get("vtpm") is not None:
        return "confidential-node", None
    if evidence.get("initdata") is not None:
        initdata = read_initdata(unbase64url(evidence["initdata"]), kind, launched_with or "")
        demand("application of initdata", application, initdata["application"])
        return "pod", initdata
    if kind != "sgx" and not (launched_with or "").strip("0"):
        return "confidential-node", None
    demand("application fixed at launch", application.ljust(2 * CLAIMS[kind][3], "0"), launched_with)
    return "process", None


def demand_initdata(claims: dict, evidence: dict, initdata: dict | None) -> None:
    """A result says of initdata what they say; and nothing where there are none."""
    found: dict = {} if initdata is None else {**initdata, "document": sha256(unbase64url(evidence["initdata"]))}
    for name, claim in (
        ("document", "x-ms-strongroom-initdata"),
        ("application", "x-ms-strongroom-initdata-application"),
        ("configuration", "x-ms-strongroom-pod-configuration"),
        ("template", "x-ms-strongroom-pod-template"),
        ("image", "x-ms-strongroom-image"),
    ):
        demand(f"{name} of initdata in a result", found.get(name), claims.get(claim))


def is_trusted(party: dict, kind: str, shape: str, measurement: str, initdata: dict | None) -> bool:
    """Whether code is trusted as what it ran as: a node's image that was launched as if it were an agent is none."""
    if shape == "process":
        names = {"sgx": "agent_measurements", "tdx": "agent_mrtds", "snp": "agent_launch_digests"}
        return measurement in party.get(names[kind], [])
    known = [
        each
        for each in party.get("pods" if shape == "pod" else "nodes", [])
        if (each["tee"], each["measurement"]) == (kind, measurement)
    ]
    if initdata is None:
        return bool(known)
    by_configuration = [each for each in known if each.get("template") is None]
    by_image = [each for each in known if each.get("template") is not None]
    return any(each["configuration"] == initdata["configuration"] for each in by_configuration) or any(
        (each["template"], each["image"]) == (initdata["template"], initdata["image"]) for each in by_image
    )


def verify_evidence(
    body: dict, evidence: dict, runtime_data: bytes, trust: dict, now: datetime
) -> tuple[str, str | None, str]:
    """Verify a member's evidence: its measurement, what was fixed at launch, the word for its hardware."""
    kind, quote = evidence["kind"], unbase64url(evidence["quote"])
    if kind == "snp":
        chain_pem = evidence["certificate_chain"]
        root = load_certificate(load_pem(chain_pem)[-1])
        crl = unhex(body["endorsements"][f"snp.{thumbprint(root.public_key())}"])
        report, hardware = verify_snp(quote, chain_pem, crl=crl, trust=trust, now=now)
        measurement, launched_with = report["measurement"], report["host_data"]
    else:
        leaf, authority, _ = (load_certificate(der) for der in read_quote(kind, quote)["chain"])
        name = common_name(authority)
        ca = "platform" if "Platform" in name else "processor" if "Processor" in name else "unknown"
        platform = f"{kind}.{read_pck(leaf)['fmspc']}.{ca}"
        endorsements = parse_json(body["endorsements"][platform].encode("utf-8"))
        read(endorsements, DCAP_ENDORSEMENTS, "endorsements")
        report, hardware = verify_quote(kind, quote, endorsements=endorsements, trust=trust, now=now)
        if kind == "sgx":
            measurement, launched_with = report["mrenclave"], report["config_id"] if report["kss"] else None
        else:
            measurement, launched_with = report["mrtd"], report["mrconfigid"]
    if evidence.get("vtpm") is not None:
        verify_vtpm(evidence, report["report_data"], runtime_data)
    else:
        bound = hashlib.sha256(runtime_data).digest() + bytes(32)
        demand("runtime data of the evidence", bound, report["report_data"])
    return measurement.hex(), launched_with.hex() if launched_with is not None else None, hardware


def verify_driver(receipt: dict, content: bytes, members: Sequence[Sequence[dict]]) -> Any:  # noqa: ANN401
    """Step 4: the body, and the statement for other tools, are signed with the key that the driver's evidence names."""
    keys = {}
    for results in members:
        key = key_of_jwk(results[0]["x-ms-runtime"]["signing_key"])
        keys[thumbprint(key)] = key
    demand("drivers that keys were given to", 1, len(keys))
    ((driver, key),) = keys.items()
    verify_signature(key, RECEIPT_CONTEXT + content, unbase64url(receipt["signature"]))
    for results in members:
        for claims in results[1:]:
            demand("driver of an executor", driver, claims["x-ms-runtime"].get("driver_key"))
    if receipt.get("attestation") is None:
        demand("version of a receipt without a statement", 1, receipt.get("version", 2))
        return None
    envelope = receipt["attestation"]
    ((signature),) = envelope["signatures"]
    demand("type of the statement", PAYLOAD_TYPE, envelope["payloadType"])
    demand("signer of the statement", driver, signature["keyid"])
    payload = unbase64(envelope["payload"])
    encoded = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode("ascii"), len(payload), payload)
    verify_signature(key, encoded, raw_signature(unbase64(signature["sig"])))
    statement = parse_json(payload)
    demand("statement", statement_of(receipt["body"], sha256(content)), statement)
    return statement


def raw_signature(signature: bytes) -> bytes:
    """A P-256 signature as `r || s`, whether it comes so or in DER."""
    if len(signature) == 64:
        return signature
    r, s = decode_dss_signature(signature)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def statement_of(body: dict, digest: str) -> dict:
    """The in-toto statement that a body amounts to."""
    ticket = parse_json(jws_parts(body["ticket"])[1])
    inputs = {name: parse_json(jws_parts(token)[1]) for name, token in body["inputs"].items()}
    outputs = [
        {"name": f"strongroom://{name}", "digest": {"sha256": output["manifest_digest"]}}
        for name, output in sorted(body["outputs"].items())
    ]
    vaults = {"vaults": sorted(body["vaults"])} if body.get("vaults") else {}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [*outputs, {"name": f"{body['run_id']}.receipt", "digest": {"sha256": digest}}],
        "predicateType": "urn:uuid:ba64806d-d586-4777-a438-592f016ef7cd:strongroom:run:v1",
        "predicate": {
            "run": body["run"],
            "runId": body["run_id"],
            "application": {"digest": {"sha256": ticket["application"]}},
            "submitter": ticket["submitter"],
            "outcome": body["outcome"],
            "hardware": body["hardware"],
            "startedAt": body["started_at"],
            "finishedAt": body["finished_at"],
            "inputs": [
                {
                    "name": f"strongroom://{name}",
                    "version": version["number"],
                    "digest": {"sha256": version["manifest_digest"]},
                }
                for name, version in sorted(inputs.items())
            ],
            "keyServices": sorted(body["records"]),
            "members": {
                identity: [
                    {
                        "number": member["number"],
                        "role": member["role"],
                        "tee": member["evidence"]["kind"],
                        **spelled_shape(member["result"]),
                        "result": {"sha256": sha256(member["result"].encode("ascii"))},
                    }
                    for member in each["members"]
                ]
                for identity, each in body["records"].items()
            },
            **vaults,
        },
    }


def spelled_shape(result: str) -> dict:
    """How a statement says a shape; a TEE for each process is not spelled out, as it never was."""
    shape = shape_of_result(parse_json(jws_parts(result)[1]))
    return {} if shape in (None, "process") else {"shape": shape}


def statement_key(token: str, identities: Sequence[str], now: datetime) -> Any:  # noqa: ANN401
    """The key that signed a service's statement, from the certificate in it that a pinned identity issued."""
    chain = [base64.b64decode(each, validate=True) for each in jws_parts(token)[0]["x5c"]]
    key = verify_leaf(chain, identities, now)
    demand("algorithm of statements", "Ed25519", algorithm_of(key))
    return key


def verify_closing(body: dict, content: bytes, identity: str, token: str, service: dict) -> dict:
    """Step 5: a key service's closing statement holds, names this very body, and counts every leaf."""
    now = moment(body["finished_at"])
    key = statement_key(token, identities_of(service, identity), now)
    closing = read(parse_json(verify_jws(token, key, "strongroom-closing+jws")), CLOSING, "a closing statement")
    origin = f"strongroom-key-service/{identities_of(service)[0]}"
    raw = raw_key(key)
    demand("log key of the key service", (origin, raw), read_vkey(service["log_key"], ED25519_NOTE))
    demand("key service of a closing", identity, closing["key_service"])
    demand("run of a closing", body["run"], closing["run"])
    demand("outcome", body["outcome"], closing["outcome"])
    demand("receipt that the key service logged", sha256(content), closing["receipt"])
    demand("mode of the key service", service["mode"], closing.get("mode", "owner-operated"))
    if service.get("master_key") is not None:
        demand("holder of the key service's master key", service["master_key"], closing.get("master_key"))
    demand("number of leaves", len(body["records"][identity]["leaves"]), closing["leaves"])
    return closing


def verify_leaves(body: dict, content: bytes, log_record: dict, closing: dict, service: dict) -> list[dict]:
    """Step 6: each leaf is in the log; their numbers have no gap; exactly the members are among them."""
    shown, closed = log_record["leaves"], closing["member_proofs"]
    checkpoints = {proof["checkpoint"] for proof in [*closed, closing["proof"]]}
    demand("checkpoints of the closing", 1, len(checkpoints))
    demand("leaves of the run", [proof["leaf"] for proof in shown], [proof["leaf"] for proof in closed])
    for proof in closed:
        verify_inclusion(proof, log_key=service["log_key"])
    leaves = [verify_inclusion(proof, log_key=service["log_key"]) for proof in [*shown, closing["proof"]]]
    for number, leaf in enumerate(leaves):
        demand("run of a leaf", body["run"], leaf.get("run"))
        demand("number of a leaf", number, leaf.get("number"))
    demand_true(len(leaves) > 1, "the run has no leaves")
    demand("first leaf", "run-opened", leaves[0].get("event"))
    demand("last leaf", "run-closed", leaves[-1].get("event"))
    demand("receipt in the log", sha256(content), leaves[-1].get("receipt"))
    demand("outcome in the log", body["outcome"], leaves[-1].get("outcome"))
    joined = [leaf.get("result") for leaf in leaves[:-1] if leaf.get("event") in ("run-opened", "member-joined")]
    results = [sha256(member["result"].encode("ascii")) for member in log_record["members"]]
    demand("members in the log", results, joined)
    versions = {name: sha256(token.encode("ascii")) for name, token in closing["versions"].items()}
    demand("versions in the log", versions, leaves[-1].get("versions"))
    return leaves


def verify_joinings(log_record: dict, members: list[dict], leaves: list[dict]) -> list[dict | None]:
    """Step 6, too: the log names each member's shape, as verified; returns the workloads that it names."""
    joined = [leaf for leaf in leaves[:-1] if leaf.get("event") in ("run-opened", "member-joined")]
    workloads = []
    for claims, leaf in zip(members, joined):
        shape = shape_of_result(claims)
        demand("shape in the log", shape, leaf.get("shape", shape))
        workloads.append(read(leaf["workload"], WORKLOAD, "a workload") if "workload" in leaf else None)
    demand("members of a record", len(log_record["members"]), len(workloads))
    pods = [(each["issuer"], each["pod_uid"]) for each in workloads if each is not None]
    demand("pods that joined more than once", len(set(pods)), len(pods))
    return workloads


def verify_witnesses(closing: dict, service: dict, minimum: int) -> list[str]:
    """Step 6, too: as many witnesses as are demanded cosigned the log with all leaves of the run."""
    names = cosigned_by(closing["proof"]["checkpoint"], service.get("witnesses", []))
    needed = max(minimum, service.get("witnesses_required", 0))
    demand_true(len(names) >= needed, f"{len(names)} known witnesses cosigned the log, {needed} are demanded")
    return names


def verify_signed(token: str, others: Sequence[str], typ: str, may_sign: Sequence[str]) -> tuple[dict, bytes, int]:
    """A statement with several people's signatures over the same bytes: what it says, the bytes, how many signed.

    Each signature is by another one of those who may sign.
    """
    payload = jws_parts(token)[1]
    text_of_payload = token.split(".")[1]
    signers = []
    for each in [token, *(other.replace("..", f".{text_of_payload}.") for other in others)]:
        header = jws_parts(each)[0]
        key = key_of_jwk(header["jwk"])
        demand("signer of a statement", header.get("kid"), thumbprint(key))
        demand_true(thumbprint(key) in may_sign, "a statement is signed by nobody who may sign it")
        verify_jws(each, key, typ)
        signers.append(thumbprint(key))
    demand_true(len(set(signers)) == len(signers), "one person's signature is there twice")
    return parse_canonical(payload), payload, len(signers)


def verify_rosters(chain: Sequence[dict], dataset: str, key_service_identity: str, owners: Sequence[str]) -> list[dict]:
    """A dataset's rosters: an owner signed the first one, enough members of the one before each later one.

    They hang together by their hashes, so that none can be left out, exchanged or put back.
    """
    rosters: list[dict] = []
    may_sign, needed, expected = list(owners), 1, (1, None, dataset, key_service_identity)
    for signed in chain:
        others = signed.get("signatures", [])
        roster, payload, count = verify_signed(signed["statement"], others, "strongroom-roster+jws", may_sign)
        read(roster, ROSTER, "a roster")
        demand_true("version" in roster and "keeps_approvals" in roster, "a roster is not in its canonical form")
        found = (roster["number"], roster["previous"], roster["dataset"], roster["key_service"])
        demand("roster before a roster", expected, found)
        demand_true(count >= needed, "a roster is signed by too few")
        keys = [key_of_jwk(jwk) for jwk in roster["members"]]
        plain = all(sorted(jwk) == ["crv", "kty", "x", "y"] and jwk["crv"] == "P-256" for jwk in roster["members"])
        may_sign, needed = [thumbprint(key) for key in keys], roster["threshold"]
        demand_true(plain and len(set(may_sign)) == len(may_sign) >= needed, "a roster that is not possible")
        expected = (roster["number"] + 1, sha256(payload), dataset, key_service_identity)
        rosters.append({**roster, "digest": sha256(payload), "may_sign": may_sign})
    return rosters


def verify_consent(token: str, proof: dict, owners: Sequence[str], body: dict) -> tuple[dict, list[dict]]:
    """An approval that enough of the right people signed, and that no later roster ended; and the dataset's rosters."""
    claimed = read(parse_canonical(jws_parts(token)[1]), APPROVAL, "an approval")
    rosters = verify_rosters(proof.get("rosters", []), claimed["dataset"], claimed["key_service"], owners)
    may_sign, needed, place = owners, 1, -1
    if claimed.get("roster") is not None:
        digests = [roster["digest"] for roster in rosters]
        demand_true(claimed["roster"] in digests, "an approval was given under a roster that the dataset never had")
        place = digests.index(claimed["roster"])
        may_sign, needed = rosters[place]["may_sign"], rosters[place]["threshold"]
    _, _, count = verify_signed(token, proof.get("signatures", []), "strongroom-approval+jws", may_sign)
    demand_true(count >= needed, "an approval is signed by too few")
    # A roster may have ended it meanwhile: nothing was committed then, and the receipt says that the run failed.
    ended = any(not roster["keeps_approvals"] for roster in rosters[place + 1 :])
    demand_true(not ended or body["outcome"] == "failed", "a later roster ended an approval")
    return claimed, rosters


def demand_opened_under(name: str, payload: bytes, rosters: Sequence[dict], opened: dict) -> None:
    """The log's leaf about the opening names this very approval, and the roster of then is not left out."""
    demand(f"approval for {name} in the log", opened["approvals"].get(name), sha256(payload))
    roster = (opened.get("rosters") or {}).get(name)
    shown = [each["digest"] for each in rosters]
    demand_true(roster is None or roster in shown, f"the roster of {name} in the log is left out")


def demand_within(approval: dict, log_record: dict, version: int | None) -> None:
    """The run kept an approval's limits, as far as one run shows: its time, its executors, what it read."""
    opened_at, executors = log_record["members"][0]["joined_at"], len(log_record["members"]) - 1
    first, last = approval.get("not_before"), approval.get("not_after")
    demand_true(first is None or first <= opened_at, "the run was opened before an approval began")
    demand_true(last is None or opened_at <= last, "the run was opened after an approval ended")
    demand_true(first is None or last is None or first <= last, "an approval ends before it begins")
    most = approval.get("max_executors")
    demand_true(most is None or executors <= most, "more executors joined than an approval allows")
    versions = approval.get("versions")
    if versions is not None and version is not None:
        is_in = versions["first"] <= version and (versions["last"] is None or version <= versions["last"])
        demand_true(is_in, "a version was read that an approval does not name")
    limited = versions is not None or approval.get("writers") is not None
    demand_true(not limited or approval["access"] == "read", "an approval to write limits what is read")


def check_approval(approval: dict) -> None:
    """What an approval says can be meant."""
    tees = approval.get("tees", ["sgx"])
    demand_true(len(set(tees)) == len(tees), "an approval names a kind of TEE twice")
    named = approval["hardware"] == "simulated" or approval.get("platform") is not None
    demand_true(named, "an approval of real hardware names no machines")
    demand_true(approval.get("purpose", "").isprintable(), "an approval's purpose is not one line of text")
    for jwk in approval.get("recipients", []):
        plain = sorted(jwk) == ["crv", "kty", "x", "y"] and algorithm_of(key_of_jwk(jwk)) == "ES256"
        demand_true(plain, "a recipient that is no P-256 key")
    check_shapes(approval)


def verify_approvals(body: dict, ticket: dict, members: dict, opened: dict, workloads: dict, trust: dict) -> dict:
    """Step 7: each approval is signed by those who must, and covers ticket, members, their workloads and access."""
    bindings = json.loads(body["application"])["datasets"]
    approvals = {}
    for identity, log_record in body["records"].items():
        owners = owner_of(trust, identity)[1]["owners"]  # of that key service: nobody approves for others' datasets
        for name, token in log_record["approvals"].items():
            approval, rosters = verify_consent(token, log_record.get("proofs", {}).get(name, {}), owners, body)
            demand_opened_under(name, jws_parts(token)[1], rosters, opened[identity])
            check_approval(approval)
            demand("dataset of an approval", name, approval["dataset"])
            demand("key service of an approval", identity, approval["key_service"])
            demand("back end of an approval", "strongroom", approval.get("back_end", "strongroom"))
            demand("application of an approval", ticket["application"], approval["application"])
            demand("access of an approval", bindings[name]["access"], approval["access"])
            demand("key service of a dataset", identity, bindings[name]["key_service"])
            demand_true(ticket["submitter"] in approval["submitters"], "an approval does not name the submitter")
            for member, claims, workload in zip(log_record["members"], members[identity], workloads[identity]):
                demand_approved(approval, claims, member["role"])
                demand_workload(approval, workload, member["role"])
            demand_within(approval, log_record, ticket["datasets"].get(name))
            approvals[name] = approval
    return approvals


def demand_approved(approval: dict, claims: dict, role: str) -> None:
    """A member's attestation result says everything that an approval demands of a TEE."""
    platform = approval.get("platform")
    if platform is not None:
        machines = claims.get("x-ms-strongroom-machines")
        found = set(map(str, machines)) if isinstance(machines, list) else set()
        wanted = platform["machines"] == "any" or bool(found & set(platform["machines"]))
        demand_true(wanted, "a member ran on a machine that an approval does not name")
        least = {"x-ms-strongroom-crl-number": platform["min_crl_number"]}
        hardware = claims if claims.get("x-ms-attestation-type") != "azurevm" else claims.get(ISOLATION, {})
        if hardware.get("x-ms-attestation-type") != CLAIMS["snp"][0]:
            least["x-ms-strongroom-tcb-evaluation-data-number"] = platform["min_tcb_evaluation_data_number"]
        for name, number in least.items():
            enough = number is None or (whole()(claims.get(name)) and claims[name] >= number)
            demand_true(enough, f"a member's {name} is lower than an approval demands")
    meets_one = any(
        meets(approval, claims, role, {**named, **demanded})
        for shape in admitted_shapes(approval)
        for kind in approval.get("tees", ["sgx"])
        for named, demanded in forms(shape, kind, approval["application"])
    )
    demand_true(meets_one, "a member of the run does not meet an approval")


def meets(approval: dict, claims: dict, role: str, form: dict) -> bool:
    """Whether a result says what an approval demands of one shape and kind of TEE."""
    runtime = claims["x-ms-runtime"]
    pairs = [
        (claims["iss"].rstrip("/"), approval["attestation_issuer"].rstrip("/")),
        (claims.get("x-ms-policy-hash"), approval["evidence_policy_hash"]),
        (runtime.get("application"), approval["application"]),
        (runtime.get("role"), role),
        (claims.get("x-ms-strongroom-hardware"), approval["hardware"]),
    ]
    return says(claims, form) and all(type(found) is type(wanted) and found == wanted for found, wanted in pairs)


def admitted_shapes(approval: dict) -> list[str]:
    """The shapes that an approval names; before there were several it said one in another member."""
    return approval.get("shapes", []) or [approval["shape"]]


def check_shapes(approval: dict) -> None:
    """An approval names its shapes in one way, each once, and none that no kind of TEE it names can have."""
    one, several, kinds = approval.get("shape"), approval.get("shapes", []), approval.get("tees", ["sgx"])
    demand_true((one is None) == bool(several), "an approval names no shape, or names it in two ways")
    demand_true(len(set(several)) == len(several), "an approval names a shape twice")
    possible = {(shape, kind) for shape in admitted_shapes(approval) for kind in kinds if forms(shape, kind, "")}
    all_possible = {each for each, _ in possible} == set(admitted_shapes(approval)) and {
        kind for _, kind in possible
    } == set(kinds)
    demand_true(all_possible, "an approval names a shape, or a kind of TEE, that goes with none of the others")


def demand_workload(approval: dict, workload: dict | None, role: str) -> None:
    """Where an approval names service accounts, the log says that the member ran as one of them.

    That is the key service's word, which it took from a token of the cluster's.
    """
    named = approval.get("workloads", [])
    accounts = [(each["issuer"], each["subject"], each.get("role")) for each in named]
    demand_true(len(set(accounts)) == len(accounts), "an approval names a service account twice")
    for each_role in ("driver", "executor"):
        admitted = [(issuer, subject) for issuer, subject, only in accounts if only in (None, each_role)]
        demand_true(bool(admitted) or not named, "an approval names service accounts for one role only")
        if named and each_role == role:
            shown = None if workload is None else (workload["issuer"], workload["subject"])
            demand_true(shown in admitted, "a member of the run was not the service account that an approval names")


def raw_key(key: Any) -> bytes:  # noqa: ANN401
    """The 32 bytes of an Ed25519 key."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def verify_versions(body: dict, ticket: dict, closings: dict, trust: dict, inputs: dict, outputs: dict) -> None:
    """Step 8: inputs and outputs are the versions that the key services countersigned and logged.

    Those of datasets under vaults' keys, which are verified already, are given; the others are added.
    """
    now, bindings = moment(body["finished_at"]), json.loads(body["application"])["datasets"]

    def version_of(token: str, identity: str, name: str) -> dict:
        """A version's statement; the key that signs the log signed it, whichever of its identities certified that."""
        service = key_service(trust, identity)
        raw = read_vkey(service["log_key"], ED25519_NOTE)[1]
        certificate = load_certificate(base64.b64decode(jws_parts(token)[0]["x5c"][0], validate=True))
        key = certificate.public_key()
        if algorithm_of(key) != "Ed25519" or raw_key(key) != raw:
            key = statement_key(token, identities_of(service, identity), now)
        version = read(parse_json(verify_jws(token, key, "strongroom-version+jws")), VERSION, "a version")
        demand("dataset of a version", name, version["dataset"])
        return version

    for name, token in body["inputs"].items():
        if name in inputs:
            continue
        identity = bindings[name]["key_service"]
        demand_true(identity in closings, "the key service of an input has no part in the receipt")
        inputs[name] = version_of(token, identity, name)
        if ticket["datasets"].get(name) is not None:
            demand("version of an input", ticket["datasets"][name], inputs[name]["number"])
        if body.get("version", 2) > 1:
            leaf = verify_inclusion(body["input_proofs"][name], log_key=key_service(trust, identity)["log_key"])
            said = (leaf.get("event"), leaf.get("dataset"), leaf.get("statement"))
            demand("log entry of an input", ("dataset-version", name, sha256(token.encode("ascii"))), said)
    for identity, closing in closings.items():
        for name, token in closing["versions"].items():
            demand("key service of an output", bindings[name]["key_service"], identity)
            outputs[name] = version_of(token, identity, name)
            demand("manifest of an output", body["outputs"][name]["manifest_digest"], outputs[name]["manifest_digest"])
    demand("outputs", sorted(body["outputs"]), sorted(outputs))
    read_ones = [name for name, number in ticket["datasets"].items() if number is not None]
    demand_true(all(name in inputs for name in read_ones), "an input of the ticket is missing")


def key_of_statement(jwk: dict | None, fault: str) -> Any:  # noqa: ANN401
    """The key that a statement carries in its header."""
    demand_true(isinstance(jwk, dict), fault)
    return key_of_jwk(jwk or {})


def read_vault_key(statement: str, identity: str) -> dict:
    """Step 9: what the application's bindings pin of a vault's key; it says itself which key it is."""
    content = statement.encode("utf-8")
    key = read(parse_canonical(content), VAULT_KEY, "a statement about a vault's key")
    demand("digest of a vault key's statement", identity, sha256(content))
    jwk, is_rsa = key["public_jwk"], key["kty"].startswith("RSA")
    named = (jwk is not None, key["check_value"] is not None)
    demand("what identifies a vault's key", (is_rsa, not is_rsa), named)
    if is_rsa:
        demand("algorithm of a vault's key", "RS256", algorithm_of(key_of_jwk(jwk)))
        numbers = [unbase64url(jwk[name]) for name in ("n", "e")]
        demand_true(sorted(jwk) == ["e", "kty", "n"] and all(number[0] for number in numbers), "not the key's one form")
    return key


def verify_vault(
    body: dict, log_record: dict, ticket: dict, claims: dict, *, identity: str, trust: dict
) -> tuple[dict, dict, dict, dict]:
    """Step 9: what the receipt says of one vault's key; returns the key, approvals, inputs and outputs.

    Nobody keeps a log there. The application's bindings pin the key; that names the owners, who sign approvals and
    versions. The driver vouches for the key that signs versions which runs write.
    """
    key = read_vault_key(log_record["statement"], identity)
    datasets = json.loads(body["application"])["datasets"]
    bindings = {name: each for name, each in datasets.items() if each["key_service"] == identity}
    demand("datasets of a vault's key", sorted(bindings), sorted(log_record["approvals"]))
    demand("driver's place", [0, "driver"], [log_record["member"]["number"], log_record["member"]["role"]])
    approvals, inputs, outputs = {}, {}, {}
    for name, token in log_record["approvals"].items():
        signer = key_of_statement(jws_parts(token)[0].get("jwk"), "an approval that carries no key")
        demand_true(thumbprint(signer) in key["owners"], "an approval is signed by no owner of the vault's key")
        demand_true(thumbprint(signer) in trust["owners"], "an approval is signed by nobody whom the trust file names")
        approval = read(parse_json(verify_jws(token, signer, "strongroom-approval+jws")), APPROVAL, "an approval")
        check_approval(approval)
        demand("dataset of an approval", name, approval["dataset"])
        demand("key of an approval", identity, approval["key_service"])
        demand("application of an approval", ticket["application"], approval["application"])
        demand("access of an approval", bindings[name]["access"], approval["access"])
        demand_true(ticket["submitter"] in approval["submitters"], "an approval does not name the submitter")
        demand_no_more_than_a_vault_enforces(approval, key["kind"])
        demand_approved(approval, claims, "driver")
        approvals[name] = approval
    for name, token in body["inputs"].items():
        if name in bindings:
            inputs[name] = vault_version(token, key, log_record, name, ticket["datasets"].get(name))
    for name, token in log_record["outputs"].items():
        written = name in bindings and bindings[name]["access"] == "write"
        demand_true(written, "the receipt names an output that the application does not write")
        outputs[name] = vault_version(token, key, log_record, name, None)
        demand("writer of an output", f"run:{body['run']}", outputs[name]["writer"])
        demand("manifest of an output", body["outputs"][name]["manifest_digest"], outputs[name]["manifest_digest"])
    return key, approvals, inputs, outputs


def vault_version(token: str, key: dict, log_record: dict, name: str, number: int | None) -> dict:
    """A version that an owner of the vault's key signed, or a run with the key that the driver vouches for."""
    signer = key_of_statement(jws_parts(token)[0].get("jwk"), "a version that carries no key")
    jwk = log_record["version_keys"].get(name)
    is_run = jwk is not None and thumbprint(signer) == thumbprint(key_of_jwk(jwk))
    demand_true(is_run or thumbprint(signer) in key["owners"], "a version is signed by no owner and no run")
    version = read(parse_json(verify_jws(token, signer, "strongroom-version+jws")), VERSION, "a version")
    demand("dataset of a version", name, version["dataset"])
    demand("key of a version", sha256(log_record["statement"].encode("utf-8")), version["key_service"])
    writer = "run:" if is_run else f"owner:{thumbprint(signer)}"
    demand_true(version["writer"].startswith(writer), "a version names another kind of writer than its signer")
    demand_true(number in (None, version["number"]), "a version of another number than the ticket names")
    return version


LIMITS_OF_KEY_SERVICES = (
    "not_before",
    "not_after",
    "max_executors",
    "max_executors_total",
    "max_duration_s",
    "versions",
    "writers",
    "roster",
)


def is_azures(url: str) -> bool:
    """Whether an attestation service's address is one of Azure Attestation's."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # half of an IPv6 address
        return False
    return host.endswith((".attest.azure.net", ".attest.azure.us", ".attest.azure.cn"))


def demand_no_more_than_a_vault_enforces(approval: dict, kind: str) -> None:
    """An approval for a vault names it, and states no limit that nobody there would hold a run to."""
    demand("back end of an approval", kind, approval.get("back_end", "strongroom"))
    azures, is_simulated = is_azures(approval["attestation_issuer"]), approval["hardware"] == "simulated"
    demand_true(azures or kind == "azure-managed-hsm", "an Azure Key Vault believes Azure Attestation alone")
    demand_true(not is_simulated or not azures, "Azure Attestation vouches for real hardware alone")
    movable = "tdx" in approval.get("tees", ["sgx"])  # Azure Attestation does not say whether a trust domain can move
    demand_true(not (azures and movable), "an approval of trust domains by Azure Attestation")
    platform = approval.get("platform") or {"machines": "any"}
    numbers = [platform.get("min_tcb_evaluation_data_number"), platform.get("min_crl_number")]
    demand_true(platform["machines"] == "any" and numbers == [None, None], "a vault knows no machines and no numbers")
    demand_true(approval.get("max_runs", 1) == 1_000_000 and not approval.get("columns"), "a vault does not count runs")
    demand("shapes in an approval for a vault", ["process"], list(admitted_shapes(approval)))
    demand_true(not approval.get("workloads"), "a vault does not know service accounts")
    for limit in LIMITS_OF_KEY_SERVICES:
        demand_true(approval.get(limit) is None, f"a vault does not enforce {limit}")


# === 12. The recipe ===================================================================================================


def verify(receipt_bytes: bytes, trust_bytes: bytes, minimum_witnesses: int = 0) -> dict:
    """Verify a receipt with nothing but a trust file.

    1. The file is canonical JSON and a receipt; its hardware is the trust file's.
    2. The ticket is signed by its submitter, names the application whose description is shown, and is this run.
    3. Each member's attestation result is signed by a key of the pinned attestation service, ours or Azure's, and its
       evidence verifies under the trusted roots; both say the same code, application, run, role, shape and hardware;
       the code is trusted as that shape.
    4. The body is signed with the key that the driver's evidence names, and so is the statement for other tools, which
       says the same.
    5. Each key service's closing statement holds, names this very body and counts every leaf.
    6. Each leaf is in the service's log; their numbers have no gap; exactly the members are among them, with their
       shapes; as many witnesses as are demanded cosigned the log with all of them.
    7. Each approval is signed by a trusted owner, or by as many people as a roster demands that leads back to one, and
       covers ticket, members, their workloads and access. The log names it in the run's first leaf.
    8. Inputs and outputs are the versions that the key services countersigned and logged.
    9. What it says of keys in Azure vaults holds: the application's bindings pin each key; its owners signed approvals,
       which the driver meets, and versions, or a run with the vault's key did.

    Returns what the receipt proves; raises DoesNotHoldError.
    """
    try:
        trust = read(parse_json(trust_bytes), TRUST, "a trust file")
        check_trust(trust)
        receipt = read(parse_canonical(receipt_bytes), RECEIPT, "a receipt")  # 1
        body = receipt["body"]
        content = canonical(body)
        demand("versions of receipt and body", receipt.get("version", 2), body.get("version", 2))
        demand("hardware", trust["hardware"], body["hardware"])
        records, vaults = body["records"], body.get("vaults", {})
        demand_true(bool(records or vaults), "the receipt names nothing that kept the keys")
        ours, azures = body.get("attestation_certificates", []), body.get("attestation_keys", {})
        demand_true(bool(ours) != bool(azures) and len(ours) != 1, "not the keys of one attestation service")
        demand_true(not (vaults and minimum_witnesses), "keys in vaults have no log that witnesses could cosign")
        ticket = verify_ticket(body)  # 2
        members = {identity: verify_members(body, each, ticket, trust) for identity, each in records.items()}  # 3
        drivers = {identity: verify_member(body, each["member"], ticket, trust) for identity, each in vaults.items()}
        first_ones = [*members.values(), *([claims] for claims in drivers.values())]
        statement = verify_driver(receipt, content, first_ones)  # 4
        demand("closing statements", sorted(records), sorted(receipt["closings"]))  # 5
        services = {identity: key_service(trust, identity) for identity in records}
        closings = {
            identity: verify_closing(body, content, identity, receipt["closings"][identity], services[identity])
            for identity in records
        }
        witnesses, opened, workloads = {}, {}, {}
        for identity, each in records.items():  # 6
            leaves = verify_leaves(body, content, each, closings[identity], services[identity])
            opened[identity] = leaves[0]
            workloads[identity] = verify_joinings(each, members[identity], leaves)
            witnesses[identity] = verify_witnesses(closings[identity], services[identity], minimum_witnesses)
        approvals = verify_approvals(body, ticket, members, opened, workloads, trust)  # 7
        inputs, outputs, kinds = {}, {}, {}
        for identity, each in vaults.items():  # 9
            found = verify_vault(body, each, ticket, drivers[identity], identity=identity, trust=trust)
            kinds[identity] = found[0]["kind"]
            approvals.update(found[1])
            inputs.update(found[2])
            outputs.update(found[3])
        demand("datasets that were approved", sorted(ticket["datasets"]), sorted(approvals))  # 7
        verify_versions(body, ticket, closings, trust, inputs, outputs)  # 8
    except MALFORMED as error:
        raise DoesNotHoldError(f"a part of it is malformed ({type(error).__name__}: {error})") from error
    shown = [*(each["members"] for each in records.values()), *([each["member"]] for each in vaults.values())]
    return {
        "run": body["run_id"],
        "outcome": body["outcome"],
        "hardware": body["hardware"],
        "application": ticket["application"],
        "time": [body["started_at"], body["finished_at"]],
        "members": [
            {
                "number": member["number"],
                "role": member["role"],
                "tee": member["evidence"]["kind"],
                "shape": shape_of_result(claims),
                **({} if workload is None else {"pod": workload}),
            }
            for member, claims, workload in zip(shown[0], first_ones[0], next(iter(workloads.values()), [None]))
        ],
        "inputs": {name: version["number"] for name, version in inputs.items()},
        "outputs": {name: version["number"] for name, version in outputs.items()},
        "approved": sorted(approvals),
        "key_services": {identity: services[identity]["mode"] for identity in records},
        "vaults": kinds,
        "attested_by": body["attestation_service"],
        "witnesses": witnesses,
        "statement": statement is not None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the two files, verify, and say so."""
    parser = argparse.ArgumentParser(description="Verify the receipt of a Strongroom run, offline.")
    parser.add_argument("receipt", type=Path, help="the receipt")
    parser.add_argument("--trust", type=Path, required=True, help="the trust file that you already have")
    parser.add_argument("--min-witnesses", type=int, default=0, help="demand that so many witnesses cosigned")
    parser.add_argument("--json", action="store_true", help="print what the receipt proves as JSON")
    options = parser.parse_args(arguments)
    try:
        found = verify(options.receipt.read_bytes(), options.trust.read_bytes(), options.min_witnesses)
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    except DoesNotHoldError as error:
        print(f"{options.receipt.name}: DOES NOT HOLD: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found, indent=2, sort_keys=True))
        return 0
    print(f"{options.receipt.name}: verified")
    if found["hardware"] == "simulated":
        print("  the hardware is simulated: it protects nothing")
    if any(member["shape"] == "confidential-node" for member in found["members"]):
        print("  the weaker shape: whoever administers the cluster was inside these TEEs")
    if found["vaults"]:
        print("  keys in vaults: there is no log of them, and nobody counted runs and TEEs")
    for name, value in found.items():
        print(f"  {name:<12} {value if isinstance(value, str) else json.dumps(value, sort_keys=True)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
