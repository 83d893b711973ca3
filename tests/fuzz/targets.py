"""Every parser, with the errors it may raise: one table for Hypothesis (`make test`) and for atheris (`make fuzz`)."""

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.fuzz import samples
from tests.fuzz.attesting import ATTESTING
from tests.fuzz.custody import CUSTODY
from tests.fuzz.dataset import DATASET
from tests.fuzz.identity import IDENTITY
from tests.fuzz.logs import LOGS
from tests.fuzz.samples import bench, endorsements, message, signer, vectors
from tests.fuzz.service import KEY_SERVICE, MANAGED_SERVICE, SERVICE, AnsweredNoError
from tests.fuzz.shapes import POD_SHAPES
from tests.fuzz.target import Target, of_text, text_of
from tests.fuzz.vault import VAULT
from tests.fuzz.vault_releases import VAULT_RELEASES
from tests.fuzz.vendors import VENDORS
from tests.support.amd import amd_bench
from tests.support.platform import NOW

from strongroom.agent.key_socket import Keyholder
from strongroom.application.description import ApplicationDescription, parse_description
from strongroom.application.parts import join_package
from strongroom.attestation.endorsements import bundle, documents
from strongroom.attestation.endorsements.dcap import DcapEndorsements, parse_endorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.endorsements.tcb import parse_qe_identity, parse_tcb_info
from strongroom.attestation.evidence.amd_certificate import AMD_ARC, parse_amd_certificate
from strongroom.attestation.evidence.azure_vtpm import parse_hcl_report, parse_tpm_quote
from strongroom.attestation.evidence.dcap_quote import parse_header, parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.pck import SGX_EXTENSION, parse_pck_extension, pck_chain, platform_kind
from strongroom.attestation.evidence.sgx_report import parse_report_body
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.attestation.evidence.td_report import parse_td_report
from strongroom.attestation.result import RESULT_TYP, verify_result
from strongroom.base.encoding import (
    canonical_json,
    from_any_b64,
    from_b64url,
    from_hex,
    parse_canonical_json,
    parse_json_object,
    to_b64url,
)
from strongroom.base.errors import (
    AuthenticationError,
    FormatError,
    IntegrityError,
    LimitError,
    RefusedError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.crypto import aead, der, x509
from strongroom.crypto.jose import (
    open_as_recipient,
    seal,
    seal_to_recipients,
    sign_jws,
    unseal,
    unverified_header,
    unverified_payload,
    verify_jws,
)
from strongroom.crypto.key_wrap import DEFAULT_ALGORITHM, wrap_to_rsa
from strongroom.crypto.keys import ReceivingKey, SigningKey, VerifyingKey
from strongroom.datasets.identity import DatasetWrite, file_id_of, parse_path, parse_write_key, with_file_id
from strongroom.datasets.manifest import build_manifest, open_manifest
from strongroom.datasets.manifest import parse_header as parse_manifest_header
from strongroom.keys.hierarchy import kek_version_of, manifest_key, unwrap_write_key, wrap_write_key
from strongroom.keys.nonce import make_nonce, verify_nonce
from strongroom.keys.release import verify_ticket
from strongroom.log.checkpoint import Checkpoint, parse_and_verify_checkpoint, sign_checkpoint
from strongroom.log.note import parse_note, sign_note
from strongroom.policy.approval import Approval
from strongroom.policy.claims import ClaimIssuer, claims_from_json
from strongroom.policy.evidence_policy import parse_evidence_policy
from strongroom.policy.explanation import explain, point_at
from strongroom.policy.release_policy import parse_release_policy
from strongroom.policy.roster import Roster
from strongroom.receipts.verify import verify_receipt
from strongroom.services import endorsement_cache, endorsement_sources
from strongroom.services.evidence_kinds import EVIDENCE_KINDS, read_attest_request
from strongroom.wire import (
    approvals,
    azure_attestation,
    azure_guest,
    data_keys,
    descriptor,
    events,
    key_service,
    lease,
    manifest,
    pod,
    receipt,
    restore,
    rotation,
    runtime_data,
    service,
    sign_in,
    ticket,
    trust,
    vault_key,
    workload,
)
from strongroom.wire.model import Message

_SECRET = SecretBytes(bytes(range(32)))
_ID, _HASH = "a5" * 16, "5a" * 32
_WIRE = (
    approvals,
    azure_attestation,
    azure_guest,
    data_keys,
    descriptor,
    key_service,
    lease,
    manifest,
    pod,
    receipt,
    restore,
    rotation,
    runtime_data,
    service,
    sign_in,
    ticket,
    trust,
    vault_key,
    workload,
)
_MESSAGES: tuple[type[Message], ...] = tuple(
    member
    for module in (*_WIRE, documents, bundle, endorsement_cache, endorsement_sources)
    for member in vars(module).values()
    if isinstance(member, type) and issubclass(member, Message) and member.__module__ == module.__name__
)


# --- evidence --------------------------------------------------------------------------------------------------------


def _platform(data: bytes) -> Any:
    try:
        return platform_kind(parse_sgx_quote(data))
    except FormatError:
        return platform_kind(parse_tdx_quote(data))


def _pck_extension(data: bytes) -> Any:
    return parse_pck_extension(_certificate_with(SGX_EXTENSION, data))


def _pck_extension_samples() -> list[bytes]:
    chains = [pck_chain(parse_sgx_quote(quote)) for quote in samples.sgx_quotes()]
    found = (x509.extension(chain[0], SGX_EXTENSION) for chain in chains)
    return [extension.value_der for extension in found if extension is not None]


def _certificate_with(oid: str, value_der: bytes, *, common_name: str = "SEV-VCEK") -> bytes:
    request = x509.CertificateRequest(
        common_name=common_name,
        public_key=signer().verifying_key,
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        ca_path_length=None,
        extensions=[x509.Extension(oid=oid, value_der=value_der, critical=False)],
    )
    return x509.issue_certificate(request, issuer_der=None, issuer_key=signer())


_AMD_NAMES = ("2", "3.1", "3.2", "3.3", "3.8", "3.9", "4", "5")


def _amd_extension(data: bytes) -> Any:
    """Replace one extension's value: the first byte says whose."""
    number, value_der = data[:1], data[1:]
    leaf = amd_bench("Turin").amd.certificates["VCEK"]
    values = {
        name: found.value_der for name in _AMD_NAMES if (found := x509.extension(leaf, f"{AMD_ARC}.{name}")) is not None
    }
    names = sorted(values)
    values[names[(number or b"\0")[0] % len(names)]] = value_der
    request = x509.CertificateRequest(
        common_name="SEV-VCEK",
        public_key=signer().verifying_key,
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        ca_path_length=None,
        extensions=[
            x509.Extension(oid=f"{AMD_ARC}.{name}", value_der=value, critical=False) for name, value in values.items()
        ],
    )
    return parse_amd_certificate(x509.issue_certificate(request, issuer_der=None, issuer_key=signer()))


def _amd_leaves() -> list[bytes]:
    made = [amd_bench(product).amd.certificates[kind] for product in ("Milan", "Turin") for kind in ("VCEK", "VLEK")]
    return made + vectors("snp/snp_milan_vcek.der")


def _header(data: bytes) -> Any:
    return parse_header(data[:48])


# --- certificates ----------------------------------------------------------------------------------------------------


def _certificate(data: bytes) -> Any:
    x509.to_pem(data)
    x509.common_name(data)
    x509.extension(data, SGX_EXTENSION)
    x509.spki_sha256(data)
    x509.read_certificate(data)
    x509.crl_distribution_points(data)
    return x509.public_key(data).to_jwk()


def _certificates() -> list[bytes]:
    return [*bench().platform.certificates.values(), *_amd_leaves(), amd_bench().amd.root_der]


def _chain(data: bytes) -> Any:
    chain = x509.parse_pem_chain(data)
    lists = x509.RevocationLists([bytes.fromhex(endorsements().root_ca_crl), bytes.fromhex(endorsements().pck_crl)])
    return _verified(chain, lists)


def _verified(chain: Sequence[bytes], lists: x509.RevocationLists) -> Any:
    return x509.verify_chain(
        chain, roots_der=chain[-1:], revocation=lists, now=NOW, understood_in_root=SIMULATED_HARDWARE
    )


def _pem_samples() -> list[bytes]:
    signed = parse_sgx_quote(bench().quote()).signature.certification_data.rstrip(b"\0")
    made = [signed, endorsements().pck_crl_issuer_chain.encode(), endorsements().tcb_info_issuer_chain.encode()]
    return made + vectors("snp/ask_ark_milan.pem", "azure-vtpm/az_vcek_chain.pem")


def _crl(data: bytes) -> Any:
    if data.startswith(b"-----"):
        data = x509.crl_from_pem(data)
    x509.read_crl(data)
    x509.crl_issuer(data)
    assert x509.crl_from_pem(x509.crl_pem(data)) == data
    lists = x509.RevocationLists([data])
    chain = [bench().platform.certificates["tcb-signing"], bench().platform.root_der]
    return _verified(chain, lists)


def _crl_samples() -> list[bytes]:
    root = bench().platform.root_der
    revoking = x509.issue_crl(
        issuer_der=root,
        issuer_key=bench().platform.keys["root"],
        revoked_der=[bench().platform.certificates["pck"]],
        number=1,
        last_update=NOW,
        next_update=NOW + timedelta(days=1),
    )
    made = [bytes.fromhex(endorsements().root_ca_crl), bytes.fromhex(endorsements().pck_crl), revoking]
    return [*made, x509.crl_pem(revoking)]


def _der(data: bytes) -> Any:
    for element in der.read_elements(data):
        for read in (element.members, element.object_identifier, element.unsigned, element.boolean):
            try:
                read()
            except FormatError:
                continue
    return der.read_element(data)


def _jwk(data: bytes) -> Any:
    return VerifyingKey.from_jwk(parse_json_object(data)).to_jwk()


def _recipient(data: bytes) -> Any:
    """Seal to a key that somebody names: what is no key that secrets can be sealed to is refused as such."""
    jwk = parse_json_object(data)
    wrap_to_rsa(_SECRET, recipient_jwk=jwk, algorithm=DEFAULT_ALGORITHM)
    return seal(_SECRET, recipient_jwk=jwk, context={})


def _jwk_samples() -> list[bytes]:
    kinds: tuple[Any, ...] = ("ES256", "ES384", "Ed25519", "RS256")
    return [canonical_json(SigningKey.generate(kind).verifying_key.to_jwk()) for kind in kinds]


def _spki_samples() -> list[bytes]:
    return [VerifyingKey.from_jwk(json.loads(jwk)).spki for jwk in _jwk_samples()]


# --- tokens ----------------------------------------------------------------------------------------------------------


@functools.cache
def _rs256() -> SigningKey:
    return SigningKey.generate("RS256", rsa_bits=2048)


@functools.cache
def _rsa_recipient() -> ReceivingKey:
    return ReceivingKey.generate_rsa()


@functools.cache
def _p256_recipient() -> ReceivingKey:
    return ReceivingKey.generate_p256()


def _jws(data: bytes) -> Any:
    token = text_of(data)
    unverified_header(token)
    unverified_payload(token)
    return verify_jws(token, key=signer().verifying_key, typ="JWT")


def _jws_samples() -> list[bytes]:
    return [sign_jws(b'{"a":1}', key=signer(), header={"typ": "JWT"}).encode()]


def _jws_header(data: bytes) -> Any:
    """Give a header, rightly signed: what is refused is refused for what it says."""
    signed = f"{to_b64url(data)}.{to_b64url(b'{}')}"
    token = f"{signed}.{to_b64url(signer().sign(signed.encode()))}"
    return verify_jws(token, key=signer().verifying_key, typ="JWT")


def _result(data: bytes) -> Any:
    token = sign_jws(data, key=_rs256(), header={"typ": RESULT_TYP})
    return verify_result(token, issuer="https://a", verifying_key=_rs256().verifying_key, now=NOW)


def _result_samples() -> list[bytes]:
    at = int(NOW.timestamp())
    claims = {"iss": "https://a", "nbf": at, "exp": at + 60, "x-ms-policy-hash": "A", "x-ms-runtime": {"a": [1]}}
    return [canonical_json(claims)]


def _ticket(data: bytes) -> Any:
    header = {"typ": ticket.TICKET_TYP, "jwk": signer().verifying_key.to_jwk()}
    return verify_ticket(sign_jws(data, key=signer(), header=header))


def _ticket_fields() -> bytes:
    submitter = signer().verifying_key.thumbprint
    return canonical_json({**json.loads(message(ticket.RunTicket)), "submitter": submitter})


def _ticket_samples() -> list[bytes]:
    header = {"typ": ticket.TICKET_TYP, "jwk": signer().verifying_key.to_jwk()}
    return [sign_jws(_ticket_fields(), key=signer(), header=header).encode()]


def _jwe(data: bytes) -> Any:
    return unseal(text_of(data), key=_rsa_recipient(), context={"a": "b"})


def _jwe_samples() -> list[bytes]:
    sealed = seal(_SECRET, recipient_jwk=_rsa_recipient().public_jwk, context={"a": "b"})
    return [sealed.encode()]


def _sealed_output(data: bytes) -> Any:
    return open_as_recipient(data, key=_p256_recipient())


def _sealed_samples() -> list[bytes]:
    return [seal_to_recipients(b"text", recipient_jwks=[_p256_recipient().public_jwk])]


# --- policies --------------------------------------------------------------------------------------------------------

_CLAIMS: dict[str, Any] = {
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-svn": 3,
    "x-ms-runtime": {"a": 1},
    "iss": "https://a",
    "events": '{"a": [1, 2.5, 1e15, "x", null, {"b": "\\ud800"}]}',
}
_POLICIES = (
    """version= 1.0;
authorizationrules { [type=="x-ms-sgx-is-debuggable", value==false] => permit(); };
issuancerules { c:[type=="x-ms-sgx-svn", value>=1] => issue(type="svn", value=c.value); };""",
    """version=1.2;
authorizationrules { ![type=="a"] => permit(); };
issuancerules {
    c:[type=="events"] => issue(type="b", value=JsonToClaimValue(JmesPath(c.value, "a[0]")));
    d:[type=="events"] => add(type="c", value=AppendString(d.value, "x"));
    => issueproperty(type="report_validity_in_minutes", value=3);
};""",
    """version=1.1;
configurationrules { => issueproperty(type="x", value=true); };
authorizationrules { => permit(); };
issuancerules { c:[type!="a"] => issue(claim=c); };""",
)
_QUERIES = (
    "a[0]",
    "a[?@ > `1`] | [0]",
    "ceil(a[1])",
    "floor(a[2])",
    "sort(a)",
    "sum(a)",
    "join(',', a)",
    "to_number('1')",
    "keys(@)",
)


def _evidence_policy(data: bytes) -> Any:
    return parse_evidence_policy(text_of(data)).evaluate(claims_from_json(_CLAIMS, issuer=ClaimIssuer.SERVICE))


def _explanation(data: bytes) -> Any:
    text, claims = text_of(data), claims_from_json(_CLAIMS, issuer=ClaimIssuer.SERVICE)
    try:
        policy = parse_evidence_policy(text)
    except FormatError as error:
        point_at(text, error.message)
        raise
    explained = explain(policy, claims)
    try:
        policy.evaluate(claims)
    except (RefusedError, LimitError):
        assert not explained.permitted
    else:
        assert explained.permitted
    return json.dumps(explained.to_json())


def _query(data: bytes) -> Any:
    query = text_of(data).replace("\\", "\\\\").replace('"', '\\"')
    policy = (
        'version=1.2;authorizationrules{=> permit();};issuancerules{c:[type=="events"] => '
        f'issue(type="b", value=JsonToClaimValue(JmesPath(c.value, "{query}")));}};'
    )
    return _evidence_policy(policy.encode(errors="surrogateescape"))


def _release_policy(data: bytes) -> Any:
    policy = parse_release_policy(data)
    try:
        policy.evaluate(_CLAIMS)
    except RefusedError:
        return policy
    return policy


_RELEASE_POLICY = (
    b'{"version":"1.0.0","anyOf":[{"authority":"https://a","allOf":[{"claim":"x-ms-runtime.a","equals":1},'
    b'{"anyOf":[{"claim":"x-ms-sgx-is-debuggable","equals":false},{"claim":"x","equals":"text"}]},'
    b'{"claim":"x-ms-sgx-svn","greaterOrEquals":2},{"claim":"x","exists":true},{"claim":"iss","notEquals":"a"}]}]}'
)


# --- datasets, runs, receipts ----------------------------------------------------------------------------------------


def _manifest() -> bytes:
    write = DatasetWrite(write_id=_ID, key=_SECRET, wrapped="AAAA", base=None)
    file = manifest.FileEntry(path="a/b.parquet", write_id=_ID, file_id=_ID, length_bytes=10, rows=3)
    return build_manifest(dataset="trips", key_service=_HASH, base=None, write=write, files=[file])[0]


def _countersigned(data: bytes, header: manifest.ManifestHeader) -> Any:
    statement = key_service.DatasetVersion(
        key_service=_HASH,
        dataset="trips",
        number=1,
        previous=None,
        manifest_digest=hashlib.sha256(data).hexdigest(),
        write_ids=tuple(sorted(header.write_keys)),
        writer="owner",
        created_at="2026-03-01T12:00:00Z",
    )
    return open_manifest(data, statement=statement, write_keys={_ID: _SECRET})


def _sealed_manifest(data: bytes) -> Any:
    return _countersigned(data, parse_manifest_header(data))


def _manifest_body(data: bytes) -> Any:
    """Encrypt any body: as a writer could who has the key."""
    header = parse_manifest_header(_manifest())
    body = aead.encrypt(manifest_key(_SECRET), data, context=header.to_json())
    return _countersigned(manifest.SealedManifest(**dict(header), body=to_b64url(body)).to_json(), header)


def _receipt(data: bytes) -> Any:
    return verify_receipt(data, trust=trust.Trust.from_json(message(trust.Trust)))


def _receipt_sample() -> bytes:
    fields = json.loads(message(receipt.Receipt))
    token = _ticket_samples()[0].decode()
    application = message(ApplicationDescription).decode()
    signed = canonical_json(
        {**json.loads(_ticket_fields()), "application": hashlib.sha256(application.encode()).hexdigest()}
    )
    header = {"typ": ticket.TICKET_TYP, "jwk": signer().verifying_key.to_jwk()}
    token = sign_jws(signed, key=signer(), header=header)
    run = hashlib.sha256(signed).hexdigest()
    fields["body"] |= {
        "ticket": token,
        "application": application,
        "run": run,
        "endorsements": {"text": _endorsements_text()},
    }
    for record in fields["body"]["records"].values():
        record["run"] = run
        record["members"][0] |= {"number": 0, "role": "driver"}
    return canonical_json(fields)


def _endorsements_text() -> str:
    return str(endorsements().to_json().decode())


def _message(kind: type[Message]) -> Target:
    return Target(
        name=f"message-{kind.__name__}",
        parse=kind.from_json,
        samples=lambda: [message(kind)],
        write=lambda value: bytes(value.to_json()),
    )


def _any_message(data: bytes) -> Any:
    for kind in _MESSAGES:
        try:
            value = kind.from_json(data)
        except FormatError:
            continue
        assert kind.from_json(value.to_json()) == value


def _package(data: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        join_package([data], Path(folder) / "joined")


def _event(line: str) -> Any:
    return events.parse_event(line)


def _event_samples() -> list[bytes]:
    kinds = (events.StepDone, events.DriverReady, events.Failed, events.Delivered, events.Finished)
    return [message(kind) for kind in kinds]


def _checkpoint(data: bytes) -> Any:
    key = _log_key()
    return parse_and_verify_checkpoint(
        sign_note(text_of(data), name="log", key=key), origin="log", key=key.verifying_key
    )


@functools.cache
def _log_key() -> SigningKey:
    return SigningKey.generate("Ed25519")


def _note_samples() -> list[bytes]:
    return [sign_checkpoint(Checkpoint(origin="log", size=7, root=bytes(32)), key=_log_key()).encode()]


def _write_key(data: bytes) -> Any:
    kek_version_of(data)
    return unwrap_write_key(_SECRET, data, dataset="trips", write_id=_ID)


def _path(text: str) -> Any:
    file_id_of(text)
    return with_file_id(parse_path(text), file_id=_ID)


def _texts(text: str) -> Any:
    for parse in (from_b64url, from_any_b64, from_hex, parse_write_key, parse_canonical_json, parse_json_object):
        try:
            parse(text.encode(errors="replace") if parse is parse_canonical_json else text)  # type: ignore[operator]
        except FormatError:
            continue


def _key_socket(data: bytes) -> Any:
    keyholder = Keyholder(datasets={}, required_settings={"a": "b"}, role="driver")
    answer = keyholder.answer(data + b"\n")
    assert answer.endswith(b"\n")
    return json.loads(answer)


def _attest_request(data: bytes) -> Any:
    body = parse_json_object(data)
    for kind in EVIDENCE_KINDS.values():
        try:
            read_attest_request(body, kind)
        except FormatError:
            continue


def _attest_bodies() -> list[bytes]:
    return [SERVICE().body("SgxEnclave", bench().quote()), SERVICE().body("SevSnpVm", _snp_evidence())]


def _snp_evidence() -> bytes:
    chip = amd_bench()
    report = chip.amd.sign(chip.report())
    chain = chip.endorsements().certificate_chain.encode()
    return canonical_json({"SnpReport": to_b64url(report), "VcekCertChain": to_b64url(chain)})


def _attest(kind: str) -> Callable[[bytes], Any]:
    return lambda data: SERVICE().attest(kind, SERVICE().body(kind, data))


def _private_jwks() -> list[bytes]:
    numbers = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
    public = {"n": numbers.public_numbers.n, "e": numbers.public_numbers.e}
    private = {
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "qi": numbers.iqmp,
    }
    point = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    on_curve = {"x": point.public_numbers.x, "y": point.public_numbers.y, "d": point.private_value}
    keys = [
        {"kty": "RSA", **{name: _number(value) for name, value in (public | private | {"qi": numbers.iqmp}).items()}},
        {"kty": "EC", "crv": "P-256", **{name: _number(value) for name, value in on_curve.items()}},
        {"kty": "oct", "k": to_b64url(bytes(32)), "key_ops": ["wrapKey"]},
    ]
    return [canonical_json({"key": key}) for key in keys]


def _number(value: int) -> str:
    return to_b64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _people_call(operation: str, data: bytes) -> Any:
    return KEY_SERVICE().people(operation, data)


def _people_bodies(operation: str) -> list[bytes]:
    return [KEY_SERVICE().people_body(operation)]


def _vault_call(operation: str, *, name: str = "") -> Callable[[bytes], Any]:
    return lambda data: KEY_SERVICE().vault(operation, data, name=name or operation)


def _new_keys() -> list[bytes]:
    policy = {"contentType": "application/json; charset=utf-8", "data": to_b64url(_RELEASE_POLICY), "immutable": False}
    return [
        canonical_json({"kty": "EC", "crv": "P-256", "attributes": {"exportable": True}, "release_policy": policy}),
        canonical_json({"kty": "oct", "key_size": 256, "tags": {"a": "b"}, "key_ops": ["wrapKey"]}),
    ]


def _wrapped(name: str, alg: str) -> list[bytes]:
    body = canonical_json({"alg": alg, "value": to_b64url(bytes(32))})
    wrapped = parse_json_object(KEY_SERVICE().vault("wrap", body, name=name))
    return [body, canonical_json({"alg": alg, "value": wrapped["value"]})]


_ANSWERED = (AnsweredNoError,)
_QUOTE = (FormatError, LimitError)
_VERIFIED = (FormatError, LimitError, VerificationError)
_OPENED = (FormatError, LimitError, VerificationError, IntegrityError)

TARGETS: tuple[Target, ...] = (
    # evidence
    Target(
        name="sgx-quote",
        parse=parse_sgx_quote,
        samples=samples.sgx_quotes,
        refusals=_QUOTE,
        write=lambda quote: bytes(quote.to_bytes()),
        exact=True,
    ),
    Target(
        name="tdx-quote",
        parse=parse_tdx_quote,
        samples=samples.tdx_quotes,
        refusals=_QUOTE,
        write=lambda quote: bytes(quote.to_bytes()),
        exact=True,
    ),
    Target(
        name="quote-header",
        parse=_header,
        samples=lambda: [quote[:48] for quote in (*samples.sgx_quotes(), *samples.tdx_quotes())],
        write=lambda header: bytes(header.to_bytes()),
    ),
    Target(
        name="sgx-report",
        parse=parse_report_body,
        samples=lambda: [quote[48:432] for quote in samples.sgx_quotes()[:1]],
        write=lambda report: bytes(report.to_bytes()),
        exact=True,
    ),
    Target(
        name="td-report",
        parse=parse_td_report,
        samples=lambda: [bench().td_report().to_bytes(), samples.tdx_quotes()[2][54:702]],
        write=lambda report: bytes(report.to_bytes()),
        exact=True,
    ),
    Target(
        name="quote-platform",
        parse=_platform,
        samples=lambda: [*samples.sgx_quotes(), *samples.tdx_quotes()],
        refusals=_QUOTE,
    ),
    Target(name="pck-certificate", parse=parse_pck_extension, samples=_certificates),
    Target(name="pck-extension", parse=_pck_extension, samples=_pck_extension_samples),
    Target(
        name="snp-report",
        parse=parse_snp_report,
        samples=samples.snp_reports,
        write=lambda report: bytes(report.to_bytes()),
        exact=True,
    ),
    Target(name="amd-certificate", parse=parse_amd_certificate, samples=_amd_leaves),
    Target(
        name="amd-extension",
        parse=_amd_extension,
        samples=lambda: [b"\0\x16\x09Genoa-B0 "[:11], b"\1\x02\x01\x07", b"\6" + bytes(64), b"\6\x04\x08" + bytes(8)],
    ),
    Target(name="hcl-report", parse=parse_hcl_report, samples=samples.hcl_reports),
    Target(name="tpm-quote", parse=parse_tpm_quote, samples=samples.tpm_quotes),
    # endorsements
    Target(
        name="tcb-info",
        parse=of_text(parse_tcb_info),
        samples=lambda: [endorsements().tcb_info.encode(), endorsements(tee="TDX").tcb_info.encode()],
        write=lambda info: canonical_json(info.model_dump(mode="json", by_alias=True)),
    ),
    Target(
        name="qe-identity",
        parse=of_text(parse_qe_identity),
        samples=lambda: [endorsements().qe_identity.encode(), endorsements(tee="TDX").qe_identity.encode()],
        write=lambda identity: canonical_json(identity.model_dump(mode="json", by_alias=True)),
    ),
    Target(
        name="dcap-endorsements",
        parse=parse_endorsements,
        samples=lambda: [endorsements().to_json(), message(DcapEndorsements)],
        write=lambda value: bytes(value.to_json()),
    ),
    Target(
        name="snp-endorsements",
        parse=SnpEndorsements.from_json,
        samples=lambda: [amd_bench().endorsements().to_json()],
        write=lambda value: bytes(value.to_json()),
    ),
    # certificates and keys
    Target(name="certificate", parse=_certificate, samples=_certificates),
    Target(name="certificate-chain", parse=_chain, samples=_pem_samples, refusals=_VERIFIED),
    Target(name="revocation-list", parse=_crl, samples=_crl_samples, refusals=_VERIFIED),
    Target(name="der", parse=_der, samples=lambda: [*_pck_extension_samples(), *_certificates()]),
    Target(name="jwk", parse=_jwk, samples=_jwk_samples, write=canonical_json),
    Target(
        name="recipient-key",
        parse=_recipient,
        samples=lambda: [sample for sample in _jwk_samples() if b"RSA" in sample],
    ),
    Target(name="spki", parse=lambda data: VerifyingKey.from_spki(data).spki, samples=_spki_samples),
    # tokens
    Target(name="jws", parse=_jws, samples=_jws_samples, refusals=_VERIFIED),
    Target(
        name="jws-header",
        parse=_jws_header,
        samples=lambda: [b'{"alg":"ES256","typ":"JWT","kid":"a"}'],
        refusals=_VERIFIED,
    ),
    Target(name="jwe", parse=_jwe, samples=_jwe_samples, refusals=_OPENED),
    Target(name="sealed-output", parse=_sealed_output, samples=_sealed_samples, refusals=_OPENED),
    Target(name="attestation-result", parse=_result, samples=_result_samples, refusals=_VERIFIED),
    Target(name="ticket", parse=of_text(verify_ticket), samples=_ticket_samples, refusals=_VERIFIED),
    Target(name="ticket-fields", parse=_ticket, samples=lambda: [_ticket_fields()], refusals=_VERIFIED),
    Target(
        name="nonce",
        parse=of_text(lambda text: verify_nonce(_SECRET, text, now=NOW)),
        samples=lambda: [make_nonce(_SECRET, now=NOW)[0].encode()],
        refusals=(RefusedError,),
    ),
    # policies
    Target(
        name="evidence-policy",
        parse=_evidence_policy,
        samples=lambda: [policy.encode() for policy in _POLICIES],
        refusals=(FormatError, LimitError, RefusedError),
    ),
    Target(
        name="policy-explanation",
        parse=_explanation,
        samples=lambda: [policy.encode() for policy in _POLICIES],
        refusals=(FormatError, LimitError),
    ),
    Target(
        name="policy-query",
        parse=_query,
        samples=lambda: [query.encode() for query in _QUERIES],
        refusals=(FormatError, LimitError, RefusedError),
    ),
    Target(name="release-policy", parse=_release_policy, samples=lambda: [_RELEASE_POLICY]),
    _message(Approval),
    _message(Roster),
    # the attestation service
    Target(name="attest-request", parse=_attest_request, samples=_attest_bodies, refusals=_QUOTE),
    Target(
        name="attest-call",
        parse=lambda data: SERVICE().attest("SevSnpVm" if b"report" in data else "SgxEnclave", data),
        samples=_attest_bodies,
        refusals=_ANSWERED,
    ),
    Target(name="attest-sgx", parse=_attest("SgxEnclave"), samples=samples.sgx_quotes, refusals=_ANSWERED),
    Target(name="attest-tdx", parse=_attest("TdxVm"), samples=samples.tdx_quotes, refusals=_ANSWERED),
    Target(name="attest-snp", parse=_attest("SevSnpVm"), samples=lambda: [_snp_evidence()], refusals=_ANSWERED),
    Target(
        name="put-policy",
        parse=lambda data: MANAGED_SERVICE().put_policy(data),
        samples=lambda: MANAGED_SERVICE().policy_tokens(),
        refusals=_ANSWERED,
    ),
    Target(
        name="person-token",
        parse=lambda data: SERVICE().authenticate(text_of(data)),
        samples=lambda: [SERVICE().person_token().encode()],
        refusals=(AuthenticationError,),
    ),
    *ATTESTING,
    *IDENTITY,
    *VENDORS,
    *VAULT_RELEASES,
    # the key service
    Target(name="vault-create", parse=_vault_call("create"), samples=_new_keys, refusals=_ANSWERED),
    Target(name="vault-import", parse=_vault_call("put"), samples=_private_jwks, refusals=_ANSWERED),
    Target(
        name="vault-update",
        parse=_vault_call("update"),
        samples=lambda: [canonical_json({"tags": {"a": "b"}, "attributes": {"enabled": True}})],
        refusals=_ANSWERED,
    ),
    *(
        Target(
            name=f"vault-{operation}-{alg.lower()}",
            parse=_vault_call(operation, name=name),
            samples=functools.partial(_wrapped, name, alg),
            refusals=_ANSWERED,
        )
        for operation in ("wrap", "unwrap")
        for name, alg in (("wrap", "A256KW"), ("wrap", "CKM_AES_KEY_WRAP_PAD"), ("wrap-rsa", "RSA-OAEP-256"))
    ),
    Target(
        name="vault-release",
        parse=_vault_call("release"),
        samples=lambda: [canonical_json({"target": "a.b.c", "nonce": "n", "enc": "CKM_RSA_AES_KEY_WRAP"})],
        refusals=_ANSWERED,
        has_good_input=False,
    ),
    *VAULT,
    Target(
        name="run-request",
        parse=lambda data: KEY_SERVICE().open_run(data),
        samples=lambda: [KEY_SERVICE().request()],
        refusals=_ANSWERED,
        has_good_input=False,
    ),
    *(
        Target(
            name=f"people-{operation}",
            parse=functools.partial(_people_call, operation),
            samples=functools.partial(_people_bodies, operation),
            refusals=_ANSWERED,
            has_good_input=False,
        )
        for operation in ("approve", "sign-approval", "propose-roster", "sign-roster", "revoke")
    ),
    Target(
        name="run-runtime-data",
        parse=lambda data: KEY_SERVICE().open_attested(data),
        samples=lambda: [KEY_SERVICE().runtime_data()],
        refusals=_ANSWERED,
        has_good_input=False,
    ),
    # datasets
    Target(name="manifest", parse=_sealed_manifest, samples=lambda: [_manifest()], refusals=_OPENED),
    Target(
        name="manifest-body",
        parse=_manifest_body,
        samples=lambda: [message(manifest.ManifestBody)],
        refusals=_OPENED,
    ),
    Target(
        name="parquet-file",
        parse=lambda data: DATASET().read(data),
        samples=lambda: [DATASET().good],
        refusals=(IntegrityError,),
    ),
    Target(
        name="wrapped-write-key",
        parse=_write_key,
        samples=lambda: [wrap_write_key(_SECRET, _SECRET, dataset="trips", write_id=_ID, kek_version=_ID)],
        refusals=_OPENED,
    ),
    Target(name="path", parse=of_text(_path), samples=lambda: [b"a/b.parquet", b"../a", b"a//b", b"x=1/y.snappy"]),
    Target(name="encodings", parse=of_text(_texts), samples=lambda: [b"AAAA", b"00ff", b'{"a":1}', b"A" * 43]),
    Target(
        name="key-socket",
        parse=_key_socket,
        samples=lambda: [b'{"op":"open","dataset":"trips","path":"a"}', b'{"op":"commit","dataset":"a","files":[]}'],
    ),
    # runs
    Target(
        name="description",
        parse=parse_description,
        samples=lambda: [message(ApplicationDescription)],
        write=lambda value: bytes(value.to_json()),
        exact=True,
    ),
    Target(name="package", parse=_package, samples=samples.packages, refusals=(FormatError, LimitError)),
    Target(
        name="event",
        parse=of_text(_event),
        samples=_event_samples,
        write=lambda value: bytes(value.model_dump_json().encode()),
    ),
    Target(
        name="receipt",
        parse=_receipt,
        samples=lambda: [_receipt_sample()],
        refusals=(FormatError, LimitError, VerificationError, RefusedError),
        has_good_input=False,
    ),
    Target(name="note", parse=of_text(parse_note), samples=_note_samples),
    Target(
        name="checkpoint",
        parse=_checkpoint,
        samples=lambda: [b"log\n7\n" + b"A" * 43 + b"=\n"],
        refusals=_VERIFIED,
        write=lambda checkpoint: bytes(checkpoint.text.encode()),
        exact=True,
    ),
    Target(name="any-message", parse=_any_message, samples=lambda: [message(kind) for kind in _MESSAGES]),
    *(_message(kind) for kind in _MESSAGES),
    # master keys
    *CUSTODY,
    # logs, witnesses, people
    *LOGS,
    # pods
    *POD_SHAPES,
)
