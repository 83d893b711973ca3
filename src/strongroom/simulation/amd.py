"""A simulated AMD: vendor, chip and firmware in one, which signs SEV-SNP reports in the real format.

Its root is made per installation and carries the critical extension of simulated hardware. Chains are signed as AMD
signs them: RSA with 4096 bits, RSASSA-PSS with SHA-384; the chip's and the provider's keys are on P-384.

Source: AMD, SEV-SNP Firmware ABI (document 56860); AMD, VCEK certificate and KDS interface specification (57230).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, get_args

from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.amd_certificate import AMD_ARC, IA5_STRING, TURIN_HWID_BYTES, EndorsementKey
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE, SIMULATED_HARDWARE_TEXT
from strongroom.attestation.evidence.snp_report import (
    CpuId,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    Product,
    SnpReport,
    TcbVersion,
    tcb_version_bytes,
)
from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import ConfigurationError
from strongroom.base.secret import SecretBytes
from strongroom.crypto import der, x509
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_bytes
from strongroom.simulation.platform import ORGANIZATION, save_keys

RSA_BITS: Final = 4096
CSP_ID: Final = "Simulated provider"
FIRMWARE: Final = FirmwareVersion(build=4, minor=55, major=1)
TCB: Final[Mapping[Product, TcbVersion]] = {
    "Milan": TcbVersion(boot_loader=4, tee=0, snp=24, microcode=219),
    "Genoa": TcbVersion(boot_loader=9, tee=0, snp=23, microcode=72),
    "Turin": TcbVersion(fmc=1, boot_loader=1, tee=1, snp=4, microcode=80),
}
CPU: Final[Mapping[Product, CpuId]] = {
    "Milan": CpuId(family=0x19, model=0x01, stepping=1),
    "Genoa": CpuId(family=0x19, model=0x11, stepping=1),
    "Turin": CpuId(family=0x1A, model=0x02, stepping=1),
}
_CERTIFICATE_LIFETIME: Final = timedelta(days=3650)
_CRL_LIFETIME: Final = timedelta(days=365)
_BACKDATE: Final = timedelta(days=1)
_CHIP_ID_BYTES: Final = 64
_ISSUERS: Final[Mapping[str, str]] = {"ark": "ark", "ask": "ark", "asvk": "ark", "VCEK": "ask", "VLEK": "asvk"}
_PATH_LENGTHS: Final[Mapping[str, int]] = {"ark": 1, "ask": 0, "asvk": 0}


@dataclass(frozen=True, kw_only=True)
class SimulatedAmd:
    """A chip of one product line, with its vendor's keys and certificates.

    Attributes:
        product: The product line.
        chip_id: 64 bytes.
        tcb: The TCB version that runs, and that the keys were derived for.
        keys: By role: ark, ask, asvk, VCEK, VLEK.
        certificates: By the same roles, DER.
    """

    product: Product
    chip_id: bytes
    tcb: TcbVersion
    keys: Mapping[str, SigningKey] = field(repr=False)
    certificates: Mapping[str, bytes] = field(repr=False)

    @classmethod
    def create(cls, product: Product, *, now: datetime, rsa_bits: int = RSA_BITS) -> "SimulatedAmd":
        """Make a chip and its vendor with new keys.

        Args:
            product: The product line.
            now: The time; certificates hold from a day before it, for ten years.
            rsa_bits: Size of the vendor's keys; AMD's have 4096 bits, which take seconds to make.
        """
        keys = {role: SigningKey.generate("RS256", rsa_bits=rsa_bits) for role in ("ark", "ask", "asvk")}
        keys |= {role: SigningKey.generate("ES384") for role in ("VCEK", "VLEK")}
        made = cls(product=product, chip_id=random_bytes(_CHIP_ID_BYTES), tcb=TCB[product], keys=keys, certificates={})
        mark = der.encode(der.UTF8_STRING, SIMULATED_HARDWARE_TEXT.encode())
        extension = x509.Extension(oid=SIMULATED_HARDWARE, value_der=mark, critical=True)
        certificates = {"ark": made.certificate("ark", f"ARK-{product}", now=now, extensions=(extension,))}
        made = replace(made, certificates=certificates)
        certificates["ask"] = made.certificate("ask", f"SEV-{product}", now=now)
        certificates["asvk"] = made.certificate("asvk", f"SEV-VLEK-{product}", now=now)
        certificates |= {kind: made.endorsement_certificate(kind, now=now) for kind in get_args(EndorsementKey)}
        return made

    @classmethod
    def load(cls, folder: Path) -> "SimulatedAmd":
        """Read a chip from its folder.

        Raises:
            ConfigurationError: The folder does not hold one.
        """
        try:
            names = parse_json_object((folder / "chip.json").read_bytes())
            product = names["product"]
            return cls(
                product=product,
                chip_id=from_hex(str(names["chip_id"]), size_bytes=_CHIP_ID_BYTES),
                tcb=TCB[product],
                keys={
                    role: SigningKey.from_pem(SecretBytes((folder / "keys" / f"{role}.pem").read_bytes()))
                    for role in _ISSUERS
                },
                certificates={
                    role: x509.parse_pem_chain((folder / "certificates" / f"{role}.pem").read_bytes())[0]
                    for role in _ISSUERS
                },
            )
        except (OSError, KeyError) as error:
            raise ConfigurationError(
                "the folder does not hold a simulated chip", action="Remove it and run `strongroom up` again."
            ) from error

    def save(self, folder: Path) -> None:
        """Write the chip into a folder (mode 700), its keys into owner-only files."""
        save_keys(folder, keys=self.keys, certificates=self.certificates)
        names = {"product": self.product, "chip_id": self.chip_id.hex()}
        (folder / "chip.json").write_text(json.dumps(names) + "\n", encoding="ascii")

    @property
    def root_der(self) -> bytes:
        """The ARK's certificate, with the critical extension of simulated hardware."""
        return self.certificates["ark"]

    # --- chip and firmware --------------------------------------------------------------------------------------------

    def report(self, *, version: int = 3, signing_key: EndorsementKey = "VCEK", report_data: bytes) -> SnpReport:
        """Return an unsigned report about a guest in good order; change a field with `dataclasses.replace`."""
        tcb = tcb_version_bytes(self.tcb)
        has_mitigations = version >= 5  # noqa: PLR2004 - as the report's format says
        return SnpReport(
            version=version,
            policy=GuestPolicy(abi_minor=31, smt=True),
            vmpl=0,
            current_tcb=tcb,
            platform_info=PlatformInfo(smt_en=True, ecc_en=True, alias_check_complete=True),
            signing_key=signing_key,
            report_data=report_data,
            measurement=bytes(range(48)),
            report_id=bytes(range(32)),
            reported_tcb=tcb,
            cpuid=CPU[self.product] if version >= 3 else None,  # noqa: PLR2004 - as the report's format says
            chip_id=self.chip_id,
            committed_tcb=tcb,
            current=FIRMWARE,
            committed=FIRMWARE,
            launch_tcb=tcb,
            launch_mit_vector=0 if has_mitigations else None,
            current_mit_vector=0 if has_mitigations else None,
        )

    def sign(self, report: SnpReport, *, role: str | None = None) -> bytes:
        """Sign a report as the firmware does, with the key that it names or with another one.

        Returns:
            The report's 1184 bytes.
        """
        key = self.keys[role or report.signing_key]
        return replace(report, signature=key.sign(report.signed_bytes())).to_bytes()

    # --- the vendor ---------------------------------------------------------------------------------------------------

    def endorsements(
        self, kind: EndorsementKey = "VCEK", *, now: datetime, revoked: Sequence[str] = ()
    ) -> SnpEndorsements:
        """Return what the key distribution service answers.

        Args:
            kind: Whose chain.
            now: The list is a day old then, and holds for a year.
            revoked: Roles of the CAs that stand on the list.
        """
        crl = x509.issue_crl(
            issuer_der=self.root_der,
            issuer_key=self.keys["ark"],
            revoked_der=[self.certificates[role] for role in revoked],
            number=1,
            last_update=now - _BACKDATE,
            next_update=now - _BACKDATE + _CRL_LIFETIME,
            pss=True,
        )
        return SnpEndorsements(certificate_chain=self.certificate_chain(kind), crl=crl.hex())

    def certificate_chain(self, kind: EndorsementKey) -> str:
        """Return the chain of a signing key, PEM: its own certificate first, the root's last."""
        chain = (self.certificates[kind], self.certificates[_ISSUERS[kind]], self.root_der)
        return "".join(map(x509.to_pem, chain))

    def endorsement_certificate(
        self,
        kind: EndorsementKey,
        *,
        now: datetime,
        tcb: TcbVersion | None = None,
        chip_id: bytes | None = None,
        product: Product | None = None,
    ) -> bytes:
        """Issue a VCEK's or VLEK's certificate, genuine or about another TCB version, chip or product."""
        tcb, product = tcb or self.tcb, product or self.product
        chip = chip_id or (self.chip_id[:TURIN_HWID_BYTES] if product == "Turin" else self.chip_id)
        values = {
            "1": der.encode_unsigned(1),
            "2": der.encode(IA5_STRING, (f"{product}-B1" if kind == "VCEK" else product).encode()),
            "3.1": der.encode_unsigned(tcb.boot_loader),
            "3.2": der.encode_unsigned(tcb.tee),
            "3.3": der.encode_unsigned(tcb.snp),
            "3.8": der.encode_unsigned(tcb.microcode),
        }
        if tcb.fmc is not None:
            values["3.9"] = der.encode_unsigned(tcb.fmc)
        values |= {"4": chip} if kind == "VCEK" else {"5": der.encode(IA5_STRING, CSP_ID.encode())}
        extensions = tuple(
            x509.Extension(oid=f"{AMD_ARC}.{name}", value_der=value, critical=False) for name, value in values.items()
        )
        return self.certificate(kind, f"SEV-{kind}", now=now, extensions=extensions)

    def certificate(
        self, role: str, common_name: str, *, now: datetime, extensions: Sequence[x509.Extension] = ()
    ) -> bytes:
        """Issue a certificate for one of the keys; the ARK signs itself and the CAs, each CA its leaf."""
        issuer = _ISSUERS[role]
        request = x509.CertificateRequest(
            common_name=common_name,
            organization=ORGANIZATION,
            public_key=self.keys[role].verifying_key,
            not_before=now - _BACKDATE,
            not_after=now - _BACKDATE + _CERTIFICATE_LIFETIME,
            ca_path_length=_PATH_LENGTHS.get(role),
            extensions=extensions,
        )
        issuer_der = None if role == "ark" else self.certificates[issuer]
        return x509.issue_certificate(request, issuer_der=issuer_der, issuer_key=self.keys[issuer], pss=True)
