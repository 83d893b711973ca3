"""Good input to start from: simulated hardware's, messages with every field, and other people's vectors."""

import atexit
import base64
import functools
import json
import os
import shutil
import struct
import tempfile
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import StringConstraints
from pydantic.fields import FieldInfo
from tests.support.amd import amd_bench
from tests.support.azure_guest import KINDS, Cloud
from tests.support.devices import certificate_table, chip_certificates
from tests.support.platform import NOW, Bench
from tests.support.simulated_guest import SimulatedGuest
from tests.support.swtpm import BOOT, event_log

from strongroom.application.parts import package_parts
from strongroom.attestation.evidence.azure_vtpm import HclKind
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import to_pem
from strongroom.simulation.azure_vm import SimulatedAzureVm
from strongroom.simulation.platform import TEE_TCB_SVN
from strongroom.wire import azure_attestation, events, model, pod, vault_key, workload

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"
_TEXTS = {
    model.Hex16: "a5" * 16,
    model.Hex32: "5a" * 32,
    model.Hex48: "5a" * 48,
    model.B64Url: "AAAA",
    model.Timestamp: "2026-03-01T12:00:00Z",
    model.DatasetName: "trips",
    model.ColumnName: "tip_amount",
    model.RelativePath: "a/part-0.parquet",
    model.Url: "https://127.0.0.1:8443/a",
    model.CompactJws: "AAAA.AAAA.AAAA",
    model.CompactJwe: "AAAA.AAAA.AAAA.AAAA.AAAA",
    model.ImageDigest: "sha256:" + "5a" * 32,
    workload.ServiceAccount: "system:serviceaccount:team-a:spark",
    workload.PodName: "spark-driver",
    workload.PodUid: "5f3c9f52-6d0a-4f8e-9a55-6b7f0b9a0c11",
    model.OriginUrl: "https://a.vault.azure.net",
    azure_attestation.KeyId: "a-key",
    vault_key.KeyName: "trips",
    vault_key.ClientId: "a-client",
    vault_key.MetadataUrl: "http://169.254.169.254",
    pod.FileLocation: "file:///archive",
    events.DeliveredName: "run.receipt.json",
}
_BY_PATTERN = {
    constraints.pattern: text
    for kind, text in _TEXTS.items()
    for constraints in get_args(kind)
    if isinstance(constraints, StringConstraints)
} | {
    r"^spark://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}\Z": "spark://127.0.0.1:7077",
    r"^[A-Za-z0-9.\-:]+\Z": "127.0.0.1",
    r"^[A-Za-z0-9_-]{43}\Z": "A" * 43,
    r"^[A-Za-z0-9_][A-Za-z0-9._+ -]*\Z": "application.py",
    r"^[^\x00-\x1f\x7f]+\Z": "an application",
    r"^[^\x00]*\Z": "text",
    r"^[A-Za-z0-9+/_-]*={0,2}\Z": "AA==",
    r"^(1?[0-9]|2[0-3])\Z": "7",
    r"^[0-9a-f]{12}\Z": "00" * 6,
    r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\Z": "ann",
    r"^[A-Za-z0-9_-]+\.\.[A-Za-z0-9_-]+\Z": "a..c",
    r"^(owner|application):[0-9a-f]{64}\Z": "owner:" + "5a" * 32,
    r"^(?:[0-9a-f]{16}|[0-9a-f]{128})\Z": "5a" * 64,
}


def packages() -> list[bytes]:
    folder = new_folder()
    (folder / "description.json").write_bytes(b"{}")
    (folder / ("application" * 10 + ".py")).write_bytes(b"print()")
    return list(package_parts(folder))


def new_folder() -> Path:
    """Return a folder that goes when this process does."""
    folder = Path(tempfile.mkdtemp(prefix="strongroom-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def bench() -> Bench:
    return Bench.new()


@functools.cache
def signer() -> SigningKey:
    return SigningKey.generate("ES256")


@functools.cache
def azure_vm(kind: HclKind) -> SimulatedAzureVm:
    return SimulatedAzureVm.create(amd_bench().amd if kind == "snp" else bench().platform)


@functools.cache
def guest(kind: HclKind) -> SimulatedGuest:
    """Return a guest on the same hardware as everything here."""
    return SimulatedGuest(cloud=Cloud(now=NOW, amd=amd_bench().amd, intel=bench().platform), kind=kind)


def guest_infos() -> list[bytes]:
    infos = [guest(kind).info() for kind in KINDS]
    log = base64.b64encode(event_log(BOOT)).decode()
    return [json.dumps(info).encode() for info in [*infos, infos[0] | {"TcgLogs": log}]]


def certificate_tables() -> list[bytes]:
    chip = chip_certificates()
    as_pem = {name: to_pem(certificate).encode() for name, certificate in chip.items()}
    vlek = {"VLEK": amd_bench().amd.certificates["VLEK"], "ARK": chip["ARK"]}
    return [certificate_table(each, page_bytes=1) for each in (chip, as_pem, vlek)]


def vectors(*names: str) -> list[bytes]:
    """Return other people's files; none where their folder is absent, which no continuous integration allows."""
    if not VECTORS.is_dir() and "CI" not in os.environ:
        return []
    return [(VECTORS / name).read_bytes() for name in names]


def sgx_quotes() -> list[bytes]:
    platform, report = bench().platform, bench().report()
    made = [platform.quote(report, version=version) for version in (3, 4, 5)]
    return made + vectors("sgx/sgx_quote", "sgx/occlum_quote.dat")


def tdx_quotes() -> list[bytes]:
    platform = bench().platform
    plain, newer = bench().td_report(), bench().td_report(tee_tcb_svn2=TEE_TCB_SVN, mrservicetd=bytes(48))
    made = [platform.quote(plain, version=4), platform.quote(plain, version=5), platform.quote(newer, version=5)]
    return made + vectors("tdx/tdx_quote", "tdx/tdx_quote_outdated")


def snp_reports() -> list[bytes]:
    made = []
    for product, version in (("Milan", 2), ("Genoa", 3), ("Turin", 5)):
        chip = amd_bench(product, "VCEK", version)  # type: ignore[arg-type]
        made.append(chip.amd.sign(chip.report()))
    return made + vectors("snp/snp_milan_report.bin", "snp/aci_report.bin")


def hcl_reports() -> list[bytes]:
    made = [azure_vm(kind).evidence(b"{}").hcl_report for kind in ("snp", "tdx")]
    return made + vectors("azure-vtpm/az_hcl_snp.bin")


def tpm_quotes() -> list[bytes]:
    return [azure_vm("snp").tpm_quote(bytes(32)), *vectors("azure-vtpm/az_tpm_quote.msg")]


def openenclave(quote: bytes) -> bytes:
    return struct.pack("<IIQ", 1, 2, len(quote)) + quote


def endorsements(*, tee: Literal["SGX", "TDX"] = "SGX") -> Any:
    return bench().platform.endorsements(now=NOW, tee=tee)


def message(kind: type[model.Message]) -> bytes:
    """Return a message with every field."""
    return kind.from_object(_object(kind)).to_json()


_ONE_OF_SEVERAL: dict[str, dict[str, Any]] = {
    "RuntimeData": {"role": "executor"},
    "VcekName": {"fmc": None},  # of another product than the first
    "Trust": {"partners": []},  # theirs would be the same services as one's own
    "ReceiptBody": {"attestation_certificates": ["AA", "AA"], "attestation_keys": {}},  # of a service of ours
    "VaultKey": {"kty": "oct", "public_jwk": None},
    "Evidence": {"kind": "snp", "initdata": None},
    "DeviceSetting": {"initdata": None},
    "PodReference": {"template": None, "image": None},
}
"""Members that exclude others, by message."""


def _object(kind: type[model.Message]) -> dict[str, Any]:
    value = {field.alias or name: _of_field(field) for name, field in kind.model_fields.items()}
    value |= _ONE_OF_SEVERAL.get(kind.__name__, {})
    if kind.__name__ == "Approval":
        value["recipients"] = [signer().verifying_key.to_jwk()]
        value["shape"] = None  # as approvals said it before there were several
        value["workloads"][0]["role"] = None
    if kind.__name__ == "Roster":
        value["members"], value["previous"] = [signer().verifying_key.to_jwk()], None
    return value


def _of_field(field: FieldInfo) -> Any:
    annotation = field.annotation
    assert annotation is not None
    metadata = [each for part in field.metadata for each in (part, *getattr(part, "__metadata__", ()))]
    return _of(annotation, metadata)


def _of(annotation: Any, metadata: Any = ()) -> Any:  # noqa: PLR0911 - one line for each kind of type
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _of(arguments[0], [*arguments[1:], *metadata])
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return _of(arguments[0], metadata)
    if origin in (tuple, list):
        return [_of(arguments[0])] * max([1, *(getattr(each, "min_length", 0) or 0 for each in metadata)])
    if origin is dict:
        return {_of(arguments[0]): _of(arguments[1])}
    if annotation is bool:
        return True
    if annotation in (int, float):
        return max([1, *(each.ge for each in metadata if hasattr(each, "ge"))])
    if annotation is str:
        patterns = [each.pattern for each in metadata if getattr(each, "pattern", None)]
        return _BY_PATTERN[patterns[0]] if patterns else "text"
    if isinstance(annotation, type) and issubclass(annotation, model.Message):
        return _object(annotation)
    return {"a": 1} if annotation is not Any else "any"
