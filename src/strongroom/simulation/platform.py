"""A simulated SGX and TDX platform: vendor, processor, TDX module and quoting enclaves in one.

It makes the vendors' bytes: DCAP quotes (versions 3 to 5), the PCK chain, TCB info, QE identity and revocation lists,
under a root that is made per installation and carries the critical extension of simulated hardware.

Source: Intel SGX ECDSA Quote Library Reference, appendix A; Intel SGX PCK Certificate Profile; PCS API version 4.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from strongroom.attestation.endorsements.dcap import DcapEndorsements, Tee
from strongroom.attestation.endorsements.tcb import TcbStatus
from strongroom.attestation.evidence.dcap_quote import (
    ECDSA_P256,
    INTEL_QE_VENDOR_ID,
    TEE_TYPE_SGX,
    TEE_TYPE_TDX,
    DcapQuote,
    QuoteHeader,
    QuoteSignature,
)
from strongroom.attestation.evidence.pck import SGX_EXTENSION, TCB_COMPONENTS
from strongroom.attestation.evidence.sgx_report import FLAG_INIT, FLAG_KSS, FLAG_MODE64BIT, SgxAttributes, SgxReportBody
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE, SIMULATED_HARDWARE_TEXT
from strongroom.attestation.evidence.td_report import TdAttributes, TdReportBody
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import der, x509
from strongroom.crypto.ecdsa import point_of_key
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_bytes

SGX_QUOTE_VERSION: Final = 3
TDX_QUOTE_VERSION: Final = 4
TDX_1_5_QUOTE_VERSION: Final = 5
CPUSVN: Final = bytes([2, 2, 2, 2, 3, 1, 0, 5]) + bytes(8)
PCESVN: Final = 13
PCEID: Final = bytes(2)
QE_SVN: Final = 8
QE_PRODUCT: Final = 1
TD_QE_PRODUCT: Final = 2
TEE_TCB_SVN: Final = bytes([5, 1, 2]) + bytes(13)
MRSEAM: Final = hashlib.sha384(b"the simulated TDX module").digest()
XFAM: Final = 0x600E7
TCB_DATE: Final = "2024-03-13T00:00:00Z"
TCB_EVALUATION_DATA_NUMBER: Final = 17

ORGANIZATION: Final = "Simulated hardware - not secure"
MRSIGNER: Final = hashlib.sha256(b"signer of Strongroom's simulated enclaves").digest()
QE_MRSIGNER: Final = hashlib.sha256(b"signer of the simulated quoting enclave").digest()
QE_MRENCLAVE: Final = hashlib.sha256(b"the simulated quoting enclave").digest()
QE_AUTH_DATA: Final = bytes(range(32))
XFRM: Final = 0xE7
ENCLAVE_FLAGS: Final = FLAG_INIT | FLAG_MODE64BIT | FLAG_KSS
_QE_FLAGS: Final = FLAG_INIT | 0x10 | FLAG_MODE64BIT

_CERTIFICATE_LIFETIME: Final = timedelta(days=3650)
_BACKDATE: Final = timedelta(days=1)
_KEYS: Final = ("root", "pck-ca", "pck", "tcb-signing", "attestation")
_CERTIFICATES: Final = ("root", "pck-ca", "pck", "tcb-signing")
_FAMILY_BYTES: Final = 6
_PPID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformCondition:
    """What the simulated vendor says about the platform; the defaults are a platform in good order.

    Attributes:
        tcb_status: Status of the platform's TCB level.
        advisory_ids: Advisories of that level.
        qe_status: Status of the quoting enclave's level.
        least_qe_svn: The lowest quoting enclave that the vendor still lists.
        tdx_module_status: Status of the TDX module's level.
        least_tdx_module_svn: The lowest TDX module that the vendor still lists.
        pck_revoked: Whether the PCK certificate stands on the revocation list.
        tcb_info_lifetime: From issue to next update; likewise for the other three.
    """

    tcb_status: TcbStatus = "UpToDate"
    advisory_ids: tuple[str, ...] = ()
    qe_status: TcbStatus = "UpToDate"
    least_qe_svn: int = QE_SVN
    tdx_module_status: TcbStatus = "UpToDate"
    least_tdx_module_svn: int = TEE_TCB_SVN[0]
    pck_revoked: bool = False
    tcb_info_lifetime: timedelta = timedelta(days=30)
    qe_identity_lifetime: timedelta = timedelta(days=30)
    root_ca_crl_lifetime: timedelta = timedelta(days=365)
    pck_crl_lifetime: timedelta = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class SimulatedPlatform:
    """A platform with its keys and certificates.

    Attributes:
        fmspc: Platform family, 6 bytes, its own for each installation.
        ppid: 16 bytes; the "processor".
        keys: By role: root, pck-ca, pck, tcb-signing, attestation.
        certificates: By role, DER: root, pck-ca, pck, tcb-signing.
        condition: What the vendor says about it.
    """

    fmspc: bytes
    ppid: bytes
    keys: Mapping[str, SigningKey] = field(repr=False)
    certificates: Mapping[str, bytes] = field(repr=False)
    condition: PlatformCondition = PlatformCondition()

    @classmethod
    def create(cls, *, now: datetime, condition: PlatformCondition | None = None) -> "SimulatedPlatform":
        """Make a platform with new roots.

        Args:
            now: The time; certificates hold from a day before it, for ten years.
            condition: What the vendor says about it.
        """
        fmspc, ppid = random_bytes(_FAMILY_BYTES), random_bytes(_PPID_BYTES)
        keys = {role: SigningKey.generate("ES256") for role in _KEYS}
        return cls(
            fmspc=fmspc,
            ppid=ppid,
            keys=keys,
            certificates=_certificates(keys, pck_extension=_pck_extension(fmspc, ppid), now=now),
            condition=condition or PlatformCondition(),
        )

    def of_another_family(self, *, now: datetime) -> "SimulatedPlatform":
        """Make a platform of the same vendor: root, CA and keys are the same, family, processor and certificate not.

        Args:
            now: The time; the certificate holds from a day before it, for ten years.
        """
        fmspc, ppid = random_bytes(_FAMILY_BYTES), random_bytes(_PPID_BYTES)
        pck = _pck_certificate(
            self.keys, issuer_der=self.certificates["pck-ca"], extension=_pck_extension(fmspc, ppid), now=now
        )
        return replace(self, fmspc=fmspc, ppid=ppid, certificates={**self.certificates, "pck": pck})

    @classmethod
    def load(cls, folder: Path) -> "SimulatedPlatform":
        """Read a platform from its folder.

        Raises:
            ConfigurationError: The folder does not hold one.
        """
        try:
            names = parse_json_object((folder / "platform.json").read_bytes())
            return cls(
                fmspc=from_hex(str(names["fmspc"]), size_bytes=_FAMILY_BYTES),
                ppid=from_hex(str(names["ppid"]), size_bytes=_PPID_BYTES),
                keys={
                    role: SigningKey.from_pem(SecretBytes((folder / "keys" / f"{role}.pem").read_bytes()))
                    for role in _KEYS
                },
                certificates={
                    role: x509.parse_pem_chain((folder / "certificates" / f"{role}.pem").read_bytes())[0]
                    for role in _CERTIFICATES
                },
            )
        except (OSError, KeyError) as error:
            raise ConfigurationError(
                "the folder does not hold a simulated platform", action="Remove it and run `strongroom up` again."
            ) from error

    def save(self, folder: Path) -> None:
        """Write the platform into a folder (mode 700), its keys into owner-only files."""
        save_keys(folder, keys=self.keys, certificates=self.certificates)
        names = {"fmspc": self.fmspc.hex(), "ppid": self.ppid.hex()}
        (folder / "platform.json").write_text(json.dumps(names) + "\n", encoding="ascii")

    @property
    def root_der(self) -> bytes:
        """The root certificate, with the critical extension of simulated hardware."""
        return self.certificates["root"]

    # --- the processor and its quoting enclave ------------------------------------------------------------------------

    def report(
        self, *, mrenclave: bytes, isv_prod_id: int, config_id: bytes = bytes(64), report_data: bytes
    ) -> SgxReportBody:
        """Return the report of an enclave of ours."""
        return SgxReportBody(
            cpusvn=CPUSVN,
            attributes=SgxAttributes(flags=ENCLAVE_FLAGS, xfrm=XFRM),
            mrenclave=mrenclave,
            mrsigner=MRSIGNER,
            config_id=config_id,
            isv_prod_id=isv_prod_id,
            isv_svn=1,
            report_data=report_data,
        )

    def td_report(self, *, mrtd: bytes, mrconfigid: bytes = bytes(48), report_data: bytes) -> TdReportBody:
        """Return the report of a trust domain in good order (TDX 1.0)."""
        return TdReportBody(
            tee_tcb_svn=TEE_TCB_SVN,
            mrseam=MRSEAM,
            td_attributes=TdAttributes(sept_ve_disable=True),
            xfam=XFAM,
            mrtd=mrtd,
            mrconfigid=mrconfigid,
            rtmr=(bytes(48), bytes(48), bytes(48), bytes(48)),
            report_data=report_data,
        )

    def quote(
        self,
        report: SgxReportBody | TdReportBody,
        *,
        version: int | None = None,
        qe_report: SgxReportBody | None = None,
    ) -> bytes:
        """Sign a report, as the quoting enclave does.

        Args:
            report: The enclave's or the trust domain's report.
            version: The quote's version; without one 3 for SGX, 4 for TDX 1.0, 5 for TDX 1.5.
            qe_report: The quoting enclave's own report where it shall differ from the genuine one.

        Returns:
            A DCAP quote.
        """
        is_enclave = isinstance(report, SgxReportBody)
        version = version or _quote_version(report)
        is_reserved = version > SGX_QUOTE_VERSION
        header = QuoteHeader(
            version=version,
            att_key_type=ECDSA_P256,
            tee_type=TEE_TYPE_SGX if is_enclave else TEE_TYPE_TDX,
            qe_svn=0 if is_reserved else QE_SVN,
            pce_svn=0 if is_reserved else PCESVN,
            qe_vendor_id=INTEL_QE_VENDOR_ID,
            user_data=self.ppid.ljust(20, b"\x00"),
        )
        if qe_report is None:
            qe_report = self.qe_report(product=QE_PRODUCT if is_enclave else TD_QE_PRODUCT)
        signature = QuoteSignature(
            isv_signature=bytes(64),
            attestation_key=self._attestation_point,
            qe_report=qe_report,
            qe_report_signature=self.keys["pck"].sign(qe_report.to_bytes()),
            qe_auth_data=QE_AUTH_DATA,
            certification_data=self._certification_data,
        )
        quote: DcapQuote[Any] = DcapQuote(header=header, report=report, signature=signature)
        signed = replace(signature, isv_signature=self.keys["attestation"].sign(quote.signed_bytes()))
        return replace(quote, signature=signed).to_bytes()

    def qe_report(self, *, product: int = QE_PRODUCT) -> SgxReportBody:
        """Return the quoting enclave's own report, which names the attestation key."""
        digest = hashlib.sha256(self._attestation_point + QE_AUTH_DATA).digest()
        return SgxReportBody(
            cpusvn=CPUSVN,
            attributes=SgxAttributes(flags=_QE_FLAGS, xfrm=XFRM),
            mrenclave=QE_MRENCLAVE,
            mrsigner=QE_MRSIGNER,
            isv_prod_id=product,
            isv_svn=QE_SVN,
            report_data=digest.ljust(64, b"\x00"),
        )

    @cached_property
    def _attestation_point(self) -> bytes:
        return point_of_key(self.keys["attestation"].verifying_key)

    @cached_property
    def _certification_data(self) -> bytes:
        return self._pem("pck", "pck-ca", "root").encode("ascii") + b"\x00"

    def _pem(self, *roles: str) -> str:
        return "".join(x509.to_pem(self.certificates[role]) for role in roles)

    # --- the vendor ---------------------------------------------------------------------------------------------------

    def endorsements(self, *, now: datetime, tee: Tee = "SGX") -> DcapEndorsements:
        """Return the vendor's documents for a kind of TEE, issued an hour before `now` (revocation lists a day)."""
        tcb_info, qe_identity = json.dumps(self._tcb_info(now, tee)), json.dumps(self._qe_identity(now, tee))
        signer = self.keys["tcb-signing"]
        return DcapEndorsements(
            pck_crl_issuer_chain=self._pem("pck-ca", "root"),
            root_ca_crl=self._crl("root", (), now, self.condition.root_ca_crl_lifetime).hex(),
            pck_crl=self._crl("pck-ca", self._revoked(), now, self.condition.pck_crl_lifetime).hex(),
            tcb_info_issuer_chain=self._pem("tcb-signing", "root"),
            tcb_info=tcb_info,
            tcb_info_signature=signer.sign(tcb_info.encode()).hex(),
            qe_identity_issuer_chain=self._pem("tcb-signing", "root"),
            qe_identity=qe_identity,
            qe_identity_signature=signer.sign(qe_identity.encode()).hex(),
        )

    def _tcb_info(self, now: datetime, tee: Tee) -> dict[str, Any]:
        tcb: dict[str, Any] = {"sgxtcbcomponents": [{"svn": svn} for svn in CPUSVN], "pcesvn": PCESVN}
        if tee == "TDX":
            tcb["tdxtcbcomponents"] = [{"svn": svn} for svn in TEE_TCB_SVN]
        level = {
            "tcb": tcb,
            "tcbDate": TCB_DATE,
            "tcbStatus": self.condition.tcb_status,
            "advisoryIDs": list(self.condition.advisory_ids),
        }
        return {
            "id": tee,
            "version": 3,
            **_validity(now, self.condition.tcb_info_lifetime),
            "fmspc": self.fmspc.hex().upper(),
            "pceId": PCEID.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
            **(self._tdx_modules() if tee == "TDX" else {}),
            "tcbLevels": [level],
        }

    def _tdx_modules(self) -> dict[str, Any]:
        looks = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
        level = {
            "tcb": {"isvsvn": self.condition.least_tdx_module_svn},
            "tcbDate": TCB_DATE,
            "tcbStatus": self.condition.tdx_module_status,
        }
        identity = {"id": f"TDX_{TEE_TCB_SVN[1]:02X}", **looks, "tcbLevels": [level]}
        return {"tdxModule": looks, "tdxModuleIdentities": [identity]}

    def _qe_identity(self, now: datetime, tee: Tee) -> dict[str, Any]:
        level = {
            "tcb": {"isvsvn": self.condition.least_qe_svn},
            "tcbDate": TCB_DATE,
            "tcbStatus": self.condition.qe_status,
        }
        return {
            "id": "QE" if tee == "SGX" else "TD_QE",
            "version": 2,
            **_validity(now, self.condition.qe_identity_lifetime),
            "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11" + "00" * 15,
            "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8,
            "mrsigner": QE_MRSIGNER.hex().upper(),
            "isvprodid": QE_PRODUCT if tee == "SGX" else TD_QE_PRODUCT,
            "tcbLevels": [level],
        }

    def _revoked(self) -> tuple[bytes, ...]:
        return (self.certificates["pck"],) if self.condition.pck_revoked else ()

    def _crl(self, role: str, revoked: tuple[bytes, ...], now: datetime, lifetime: timedelta) -> bytes:
        return x509.issue_crl(
            issuer_der=self.certificates[role],
            issuer_key=self.keys[role],
            revoked_der=revoked,
            number=1,
            last_update=now - _BACKDATE,
            next_update=now - _BACKDATE + lifetime,
        )


def _quote_version(report: SgxReportBody | TdReportBody) -> int:
    if isinstance(report, SgxReportBody):
        return SGX_QUOTE_VERSION
    return TDX_QUOTE_VERSION if report.tee_tcb_svn2 is None else TDX_1_5_QUOTE_VERSION


def _validity(now: datetime, lifetime: timedelta) -> dict[str, str]:
    issued = now - timedelta(hours=1)
    return {"issueDate": to_rfc3339(issued), "nextUpdate": to_rfc3339(issued + lifetime)}


def _certificates(keys: Mapping[str, SigningKey], *, pck_extension: bytes, now: datetime) -> dict[str, bytes]:
    text = der.encode(der.UTF8_STRING, SIMULATED_HARDWARE_TEXT.encode())
    mark = x509.Extension(oid=SIMULATED_HARDWARE, value_der=text, critical=True)

    def issue(role: str, name: str, ca_path_length: int | None, *extra: x509.Extension) -> bytes:
        request = _request(keys[role], name, ca_path_length, *extra, now=now)
        return x509.issue_certificate(request, issuer_der=issued.get("root"), issuer_key=keys["root"])

    issued: dict[str, bytes] = {}
    issued["root"] = issue("root", "Root CA", 1, mark)
    issued["pck-ca"] = issue("pck-ca", "PCK Platform CA", 0)
    issued["pck"] = _pck_certificate(keys, issuer_der=issued["pck-ca"], extension=pck_extension, now=now)
    issued["tcb-signing"] = issue("tcb-signing", "TCB Signing", None)
    return issued


def _pck_certificate(keys: Mapping[str, SigningKey], *, issuer_der: bytes, extension: bytes, now: datetime) -> bytes:
    platform = x509.Extension(oid=SGX_EXTENSION, value_der=extension, critical=False)
    request = _request(keys["pck"], "PCK Certificate", None, platform, now=now)
    return x509.issue_certificate(request, issuer_der=issuer_der, issuer_key=keys["pck-ca"])


def _request(
    key: SigningKey, name: str, ca_path_length: int | None, *extra: x509.Extension, now: datetime
) -> x509.CertificateRequest:
    return x509.CertificateRequest(
        common_name=f"Simulated SGX {name}",
        organization=ORGANIZATION,
        public_key=key.verifying_key,
        not_before=now - _BACKDATE,
        not_after=now + _CERTIFICATE_LIFETIME,
        ca_path_length=ca_path_length,
        extensions=extra,
    )


def _pck_extension(fmspc: bytes, ppid: bytes) -> bytes:
    def member(suffix: str, value: bytes) -> bytes:
        return der.encode_sequence(der.encode_object_identifier(f"{SGX_EXTENSION}.{suffix}"), value)

    components = [member(f"2.{number + 1}", der.encode_unsigned(CPUSVN[number])) for number in range(TCB_COMPONENTS)]
    tcb = der.encode_sequence(
        *components,
        member("2.17", der.encode_unsigned(PCESVN)),
        member("2.18", der.encode(der.OCTET_STRING, CPUSVN)),
    )
    flags = der.encode_sequence(*(member(f"7.{number}", der.encode_boolean(value=False)) for number in (1, 2, 3)))
    return der.encode_sequence(
        member("1", der.encode(der.OCTET_STRING, ppid)),
        member("2", tcb),
        member("3", der.encode(der.OCTET_STRING, PCEID)),
        member("4", der.encode(der.OCTET_STRING, fmspc)),
        member("5", der.encode_unsigned(1, tag=der.ENUMERATED)),
        member("6", der.encode(der.OCTET_STRING, hashlib.sha256(ppid).digest()[:16])),
        member("7", flags),
    )


def save_keys(folder: Path, *, keys: Mapping[str, SigningKey], certificates: Mapping[str, bytes]) -> None:
    """Write keys and certificates into a folder (mode 700), the keys into owner-only files."""
    for part in (folder, folder / "keys", folder / "certificates"):
        part.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.chmod(0o700)
    for role, key in keys.items():
        _write_private(folder / "keys" / f"{role}.pem", key.to_pem())
    for role, certificate in certificates.items():
        (folder / "certificates" / f"{role}.pem").write_text(x509.to_pem(certificate), encoding="ascii")


def _write_private(path: Path, content: SecretBytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        file.write(content.reveal())
