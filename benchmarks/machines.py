"""Simulated machines, what their owner believes of them, and what their guests send to an attestation service."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from strongroom.attestation.evidence.amd_certificate import EndorsementKey
from strongroom.attestation.evidence.snp_report import Product
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.encoding import Json, canonical_json, to_b64url
from strongroom.clients.attestation import API_VERSION
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import spki_sha256
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.azure_vm import PARAVISOR, SimulatedAzureVm
from strongroom.simulation.platform import MRSIGNER, TEE_TCB_SVN, SimulatedPlatform
from strongroom.wire.azure_guest import AzureVmRequest
from strongroom.wire.runtime_data import RuntimeData

MRENCLAVE: Final = hashlib.sha256(b"an enclave").digest()
MRTD: Final = hashlib.sha384(b"a trust domain").digest()
APPLICATION: Final = hashlib.sha256(b"an application").digest()
_SNP_MEASUREMENT: Final = bytes(range(48))
_ISOLATION: Final = "x-ms-isolation-tee."


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one guest sends.

    Attributes:
        type: Azure Attestation's name of the evidence's type, whose policy decides; `AzureVm` for our own call.
        body: A JSON object.
        runtime_data: The data that this evidence alone stands for.
    """

    type: str
    body: bytes
    runtime_data: bytes

    @property
    def target(self) -> str:
        """Path and query."""
        if self.type == "AzureVm":
            return "/strongroom/v1/attest/AzureVm"
        return f"/attest/{self.type}?api-version={API_VERSION}"

    def with_nonce(self, nonce: str) -> bytes:
        """Return the body with a nonce of the client, where the call has one."""
        if self.type == "AzureVm":
            return self.body
        return self.body[:-1] + f',"nonce":"{nonce}"}}'.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """One machine of each kind.

    Attributes:
        now: When they were made.
        intel: For SGX and TDX.
        amd: For SEV-SNP, with keys as large as AMD's.
        azure: Confidential VMs on them.
        keys: What a TEE's runtime data say of its own keys.
    """

    now: datetime
    intel: SimulatedPlatform
    amd: Mapping[Product, SimulatedAmd]
    azure: Mapping[str, SimulatedAzureVm]
    keys: Mapping[str, Any]

    @classmethod
    def create(cls) -> "Machines":
        """Make the machines, with new roots; AMD's keys take seconds."""
        now = datetime.now(tz=UTC)
        intel = SimulatedPlatform.create(now=now)
        products: tuple[Product, ...] = ("Milan", "Turin")
        amd = {product: SimulatedAmd.create(product, now=now) for product in products}
        receiving = SigningKey.generate("RS256", rsa_bits=3072).verifying_key.to_jwk()
        return cls(
            now=now,
            intel=intel,
            amd=amd,
            azure={"SNP": SimulatedAzureVm.create(amd["Milan"]), "TDX": SimulatedAzureVm.create(intel)},
            keys={
                "keys": ({**receiving, "kid": "TpmEphemeralEncryptionKey", "key_ops": ["encrypt"]},),
                "signing_key": SigningKey.generate("ES256").verifying_key.to_jwk(),
            },
        )

    @property
    def roots_der(self) -> list[bytes]:
        """The simulated vendors' roots."""
        return [self.intel.root_der, *(chip.root_der for chip in self.amd.values())]

    @property
    def trusted_roots(self) -> TrustedRoots:
        """The same, as a verifier has them."""
        return TrustedRoots(
            roots=tuple(TrustedRoot(certificate_der=root_der, simulated=True) for root_der in self.roots_der)
        )

    def write_endorsements(self, folder: Path, *, families: Iterable[SimulatedPlatform] = ()) -> None:
        """Write what the vendors say of these machines, and of further platform families, into a new folder."""
        folder.mkdir()
        for platform in (self.intel, *families):
            family = platform.fmspc.hex()
            (folder / f"{family}.json").write_bytes(platform.endorsements(now=self.now).to_json())
            (folder / f"{family}-tdx.json").write_bytes(platform.endorsements(now=self.now, tee="TDX").to_json())
        for chip in self.amd.values():
            crl = bytes.fromhex(chip.endorsements(now=self.now).crl)
            (folder / f"{spki_sha256(chip.root_der)}.crl").write_bytes(crl)

    # --- what guests send --------------------------------------------------------------------------------------------

    def sgx(self, *, platform: SimulatedPlatform | None = None) -> Request:
        """An enclave, quote version 3."""
        platform, data = platform or self.intel, self._runtime_data()
        report = platform.report(
            mrenclave=MRENCLAVE, isv_prod_id=1, config_id=APPLICATION + bytes(32), report_data=_report_data(data)
        )
        return _request("SgxEnclave", "quote", platform.quote(report), data)

    def tdx_1_0(self) -> Request:
        """A trust domain of TDX 1.0, quote version 4."""
        return self._trust_domain()

    def tdx_1_5(self) -> Request:
        """A trust domain of TDX 1.5, quote version 5."""
        return self._trust_domain(tee_tcb_svn2=TEE_TCB_SVN, mrservicetd=bytes(48))

    def snp_milan_vcek(self) -> Request:
        """A guest on Milan, report version 3, signed by the chip's key."""
        return self._snp_guest("Milan", "VCEK", version=3)

    def snp_turin_vlek(self) -> Request:
        """A guest on Turin, report version 5, signed by the cloud provider's key."""
        return self._snp_guest("Turin", "VLEK", version=5)

    def azure_snp(self) -> Request:
        """A confidential VM on SEV-SNP."""
        return self._azure_vm("SNP", certificates=self.amd["Milan"].certificate_chain("VCEK"))

    def azure_tdx(self) -> Request:
        """A confidential VM on TDX."""
        return self._azure_vm("TDX", certificates=None)

    def _trust_domain(self, **extension: bytes) -> Request:
        data = self._runtime_data()
        report = self.intel.td_report(
            mrtd=MRTD, mrconfigid=APPLICATION.ljust(48, b"\0"), report_data=_report_data(data)
        )
        return _request("TdxVm", "quote", self.intel.quote(replace(report, **extension)), data)

    def _snp_guest(self, product: Product, kind: EndorsementKey, *, version: int) -> Request:
        chip, data = self.amd[product], self._runtime_data()
        report = chip.report(version=version, signing_key=kind, report_data=_report_data(data))
        signed = chip.sign(replace(report, host_data=APPLICATION))
        chain = chip.certificate_chain(kind).encode("ascii")
        sent = canonical_json({"SnpReport": to_b64url(signed), "VcekCertChain": to_b64url(chain)})
        return _request("SevSnpVm", "report", sent, data)

    def _azure_vm(self, kind: str, *, certificates: str | None) -> Request:
        data = self._runtime_data()
        made = self.azure[kind].evidence(data)
        sent = AzureVmRequest(
            hcl_report=to_b64url(made.hcl_report),
            td_quote=None if made.td_quote is None else to_b64url(made.td_quote),
            certificates=certificates,
            tpm_quote=to_b64url(made.tpm_quote),
            tpm_signature=to_b64url(made.tpm_signature),
            pcrs={str(number): value.hex() for number, value in enumerate(made.pcr_values)},
            runtime_data=to_b64url(data),
        )
        return Request(type="AzureVm", body=sent.to_json(), runtime_data=data)

    def _runtime_data(self) -> bytes:
        return RuntimeData(
            application=APPLICATION.hex(),
            role="executor",
            run=hashlib.sha256(b"a run").hexdigest(),
            nonces={hashlib.sha256(b"a key service").hexdigest(): to_b64url(random_bytes(32))},
            driver_key=hashlib.sha256(b"a driver").hexdigest(),
            **self.keys,
        ).to_json()


Make = Callable[[Machines], Request]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of evidence that is measured.

    Attributes:
        name: What the page calls it.
        make: Makes a guest's request, each time with runtime data of its own.
        limit_ms: What verification and appraisal may take (median).
    """

    name: str
    make: Make
    limit_ms: float


KINDS: Final = (
    Kind(name="SGX, quote 3", make=Machines.sgx, limit_ms=5),
    Kind(name="TDX 1.0, quote 4", make=Machines.tdx_1_0, limit_ms=5),
    Kind(name="TDX 1.5, quote 5", make=Machines.tdx_1_5, limit_ms=5),
    Kind(name="SEV-SNP, Milan, VCEK", make=Machines.snp_milan_vcek, limit_ms=3),
    Kind(name="SEV-SNP, Turin, VLEK", make=Machines.snp_turin_vlek, limit_ms=3),
    Kind(name="Azure VM on SEV-SNP", make=Machines.azure_snp, limit_ms=3),
    Kind(name="Azure VM on TDX", make=Machines.azure_tdx, limit_ms=5),
)


# --- policies --------------------------------------------------------------------------------------------------------


def policy(attestation_type: str) -> str:
    """Return a policy such as an owner writes: old and new release permitted, what is unsafe denied, claims issued.

    Args:
        attestation_type: As in `Request.type`.
    """
    permits, denials, issued = _DEMANDS[attestation_type]
    lines = [
        "version= 1.0;\nauthorizationrules\n{",
        *(f"\t{' && '.join(_condition(*each) for each in demands)} => permit();" for demands in permits),
        *(f"\t{_condition(name, value)} => deny();" for name, value in denials),
        "};\nissuancerules\n{",
        *(f'\tc:[type=="{name}"] => issue(type="{name}-of-policy", value=c.value);' for name in issued),
        '\t=> issue(type="environment", value="production");\n};\n',
    ]
    return "\n".join(lines)


def long_policy(rules: int) -> str:
    """Return a policy that names so many releases of an enclave; the last one is the one that runs."""
    names = [hashlib.sha256(number.to_bytes(4, "big")).hexdigest() for number in range(rules - 1)]
    permits = (f"\t{_condition('x-ms-sgx-mrenclave', name)} => permit();\n" for name in (*names, MRENCLAVE.hex()))
    return f"version= 1.0;\nauthorizationrules\n{{\n{''.join(permits)}}};\nissuancerules\n{{\n}};\n"


_Demands = Sequence[tuple[str, Any]]


def _condition(name: str, value: object) -> str:
    return f'[type=="{name}", value=={json.dumps(value)}]'


def _releases(name: str, current: bytes, demands: _Demands) -> list[_Demands]:
    """Return what is demanded of each of three releases, the one that runs last."""
    older = (hashlib.new(f"sha{8 * len(current)}", bytes([number])).digest() for number in range(2))
    return [[(name, release.hex()), *demands] for release in (*older, current)]


def _table() -> Mapping[str, tuple[list[_Demands], _Demands, Sequence[str]]]:
    up_to_date, application = ("x-ms-strongroom-tcb-status", "UpToDate"), APPLICATION.hex()
    sgx: _Demands = [
        ("x-ms-sgx-is-debuggable", False),
        ("x-ms-sgx-mrsigner", MRSIGNER.hex()),
        ("x-ms-sgx-product-id", 1),
        ("x-ms-sgx-config-id", application + "00" * 32),
        up_to_date,
    ]
    tdx: _Demands = [
        ("dbgstat", "disabled"),
        ("tdx_td_attributes_septve_disable", True),
        ("tdx_mrconfigid", application + "00" * 16),
        up_to_date,
    ]
    snp: _Demands = [
        ("x-ms-sevsnpvm-is-debuggable", False),
        ("x-ms-sevsnpvm-migration-allowed", False),
        ("x-ms-sevsnpvm-hostdata", application),
        ("x-ms-sevsnpvm-vmpl", 0),
    ]
    secure_boot = (f"{_ISOLATION}x-ms-runtime.vm-configuration.secure-boot", True)
    guest = [
        *_releases(
            f"{_ISOLATION}x-ms-sevsnpvm-launchmeasurement",
            _SNP_MEASUREMENT,
            [(f"{_ISOLATION}x-ms-sevsnpvm-is-debuggable", False), secure_boot],
        ),
        *_releases(f"{_ISOLATION}tdx_mrtd", PARAVISOR, [(f"{_ISOLATION}dbgstat", "disabled"), secure_boot]),
    ]
    migratable = [("x-ms-strongroom-migratable", True)]
    return {
        "SgxEnclave": (
            _releases("x-ms-sgx-mrenclave", MRENCLAVE, sgx),
            [("x-ms-strongroom-provision-key", True)],
            ["x-ms-sgx-svn", "x-ms-strongroom-tcb-status"],
        ),
        "TdxVm": (_releases("tdx_mrtd", MRTD, tdx), migratable, ["tdx_seamsvn", "x-ms-strongroom-tcb-status"]),
        "SevSnpVm": (
            _releases("x-ms-sevsnpvm-launchmeasurement", _SNP_MEASUREMENT, snp),
            [("x-ms-strongroom-firmware-is-provisional", True)],
            ["x-ms-sevsnpvm-snpfw-svn", "x-ms-sevsnpvm-microcode-svn"],
        ),
        "AzureGuest": (guest, migratable, [f"{_ISOLATION}x-ms-attestation-type"]),
    }


_DEMANDS: Final = _table()


def _report_data(runtime_data: bytes) -> bytes:
    return hashlib.sha256(runtime_data).digest() + bytes(32)


def _request(attestation_type: str, member: str, evidence: bytes, runtime_data: bytes) -> Request:
    body: Json = {
        member: to_b64url(evidence),
        "runtimeData": {"data": to_b64url(runtime_data), "dataType": "JSON"},
    }
    return Request(type=attestation_type, body=canonical_json(body), runtime_data=runtime_data)
