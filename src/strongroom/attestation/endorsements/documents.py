"""The vendors' documents one by one: what each is called, and endorsements put together from them.

Clients, caches, bundles and the collateral service pass single documents on, because each has a life of its own: a
revocation list is renewed without the TCB info. Whoever can `find` documents is a source of whole endorsements.

Source: Intel SGX Provisioning Certification Service API, version 4; AMD document 57230 (KDS), chapter 4.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Field, StringConstraints, model_validator
from typing_extensions import override

from strongroom.attestation.endorsements.dcap import DcapEndorsements, EndorsementSource, Tee
from strongroom.attestation.endorsements.snp import SnpEndorsements, SnpEndorsementSource
from strongroom.attestation.evidence.amd_certificate import TURIN_HWID_BYTES, EndorsementKey
from strongroom.attestation.evidence.snp_report import Product, SnpReport, TcbVersion, parse_tcb_version
from strongroom.base.encoding import from_hex
from strongroom.base.errors import NotFoundError
from strongroom.crypto import x509
from strongroom.wire.model import Message, Timestamp

PckAuthority: TypeAlias = Literal["platform", "processor"]
EvaluationNumber: TypeAlias = Annotated[int, Field(ge=1, le=0xFFFFFFFF)]
Edition: TypeAlias = Literal["standard", "early"] | EvaluationNumber
"""Which of the vendor's evaluations: the one in force, the next one early, or one by its number."""
Fmspc: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}\Z")]
_Hwid: TypeAlias = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{16}|[0-9a-f]{128})\Z")]
_Svn: TypeAlias = Annotated[int, Field(ge=0, le=0xFF)]
_UNNAMED_PRODUCTS: Final[tuple[Product, ...]] = ("Milan", "Genoa")
"""What may have made a report of version 2, which does not name its processor."""


class PckCrlName(Message):
    """The revocation list of one of the PCK CAs."""

    kind: Literal["pck-crl"] = "pck-crl"
    ca: PckAuthority

    @property
    def key(self) -> str:
        """A file name."""
        return f"pck-crl-{self.ca}"


class RootCaCrlName(Message):
    """The revocation list of the root of SGX and TDX."""

    kind: Literal["root-ca-crl"] = "root-ca-crl"

    @property
    def key(self) -> str:
        """A file name."""
        return "root-ca-crl"


class TcbInfoName(Message):
    """The TCB levels of a platform family."""

    kind: Literal["tcb-info"] = "tcb-info"
    tee: Tee
    fmspc: Fmspc
    edition: Edition = "standard"

    @property
    def key(self) -> str:
        """A file name."""
        return f"tcb-info-{self.tee.lower()}-{self.fmspc}-{self.edition}"


class QeIdentityName(Message):
    """What a genuine quoting enclave looks like."""

    kind: Literal["qe-identity"] = "qe-identity"
    tee: Tee
    edition: Edition = "standard"

    @property
    def key(self) -> str:
        """A file name."""
        return f"qe-identity-{self.tee.lower()}-{self.edition}"


class AmdChainName(Message):
    """The CAs of a product line: ASK or ASVK, then ARK."""

    kind: Literal["amd-chain"] = "amd-chain"
    signing_key: EndorsementKey
    product: Product

    @property
    def key(self) -> str:
        """A file name."""
        return f"amd-chain-{self.signing_key}-{self.product}".lower()


class AmdCrlName(Message):
    """The revocation list of a product line's ARK, as it is published for chips' or for providers' keys."""

    kind: Literal["amd-crl"] = "amd-crl"
    signing_key: EndorsementKey
    product: Product

    @property
    def key(self) -> str:
        """A file name."""
        return f"amd-crl-{self.signing_key}-{self.product}".lower()


class VcekName(Message):
    """The certificate of one chip's key at one TCB version.

    Attributes:
        hwid: The chip's id in hexadecimal: 64 bytes, on Turin 8.
        fmc: On Turin only.
    """

    kind: Literal["vcek"] = "vcek"
    product: Product
    hwid: _Hwid
    boot_loader: _Svn
    tee: _Svn
    snp: _Svn
    microcode: _Svn
    fmc: _Svn | None = None

    @model_validator(mode="after")
    def _as_the_product_has_it(self) -> "VcekName":
        is_turin = self.product == "Turin"
        if (self.fmc is not None) != is_turin or (len(self.hwid) == 2 * TURIN_HWID_BYTES) != is_turin:
            msg = "Turin's chips have ids of 8 bytes and a version fmc, others ids of 64 bytes"
            raise ValueError(msg)
        return self

    @classmethod
    def of(cls, report: SnpReport, product: Product) -> "VcekName":
        """Return the name of the certificate that a report needs.

        Raises:
            FormatError: The report's TCB version is malformed.
        """
        tcb = parse_tcb_version(report.reported_tcb, product=product)
        chip = report.chip_id[:TURIN_HWID_BYTES] if product == "Turin" else report.chip_id
        return cls(
            product=product,
            hwid=chip.hex(),
            boot_loader=tcb.boot_loader,
            tee=tcb.tee,
            snp=tcb.snp,
            microcode=tcb.microcode,
            fmc=tcb.fmc,
        )

    @property
    def tcb(self) -> TcbVersion:
        """The TCB version."""
        return TcbVersion(
            boot_loader=self.boot_loader, tee=self.tee, snp=self.snp, microcode=self.microcode, fmc=self.fmc
        )

    @property
    def key(self) -> str:
        """A file name."""
        versions = "-".join(map(str, self.tcb.parts()))
        return f"vcek-{self.product}-{self.hwid}-{versions}".lower()


DocumentName: TypeAlias = Annotated[
    PckCrlName | RootCaCrlName | TcbInfoName | QeIdentityName | AmdChainName | AmdCrlName | VcekName,
    Field(discriminator="kind"),
]
AmdName: TypeAlias = AmdChainName | AmdCrlName | VcekName
IntelName: TypeAlias = PckCrlName | RootCaCrlName | TcbInfoName | QeIdentityName


class PlatformFamily(Message):
    """A family of SGX or TDX platforms, as its quotes' certificates name it.

    Attributes:
        fmspc: 12 lower-case hexadecimal digits.
        ca: Which of the vendor's CAs issued the platforms' certificates.
        tee: For which kind of TEE.
    """

    fmspc: Fmspc
    ca: PckAuthority = "platform"
    tee: Tee = "SGX"


class Document(Message):
    """One of the vendor's documents, not verified.

    Attributes:
        content: The exact JSON text that was signed; certificates as PEM; a revocation list as DER in hexadecimal.
        signature: r || s in hexadecimal, for JSON; certificates and lists hold theirs.
        issuer_chain: PEM; who signed it, up to the root. Empty for what the root itself signed.
    """

    content: str
    signature: str = ""
    issuer_chain: str = ""


class Entry(Message):
    """A document as caches and bundles keep it.

    Attributes:
        name: Which document it is.
        fetched_at: When the vendor gave it away, as far as that is known.
        document: The document.
    """

    name: DocumentName
    fetched_at: Timestamp
    document: Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A document that a source has.

    Attributes:
        document: The document, not verified.
        fetched_at: When the vendor gave it away, as far as the source knows.
        stale: Why the source could not renew it when it should have; None if it is as fresh as it should be.
    """

    document: Document
    fetched_at: datetime
    stale: str | None = None


class DocumentSource(EndorsementSource, SnpEndorsementSource):
    """Who can find documents, and so puts endorsements together. What it gives is signed: it need not be trusted.

    Attributes:
        edition: Which of the vendor's evaluations `get` asks for.
    """

    edition: Edition = "standard"

    @abstractmethod
    def find(self, name: DocumentName) -> Found:
        """Return a document.

        Raises:
            NotFoundError: There is none of this name.
            FormatError: What is there is malformed.
            UnavailableError: The source does not answer, or has nothing that is new enough.
        """

    @override
    def get(self, *, fmspc: str, ca: str, tee: Tee = "SGX") -> DcapEndorsements:
        """Return the endorsements of a platform family (see `EndorsementSource`)."""
        pck_crl, root_ca_crl, tcb_info, qe_identity = (
            self.find(name).document for name in dcap_names(fmspc=fmspc, ca=ca, tee=tee, edition=self.edition)
        )
        return DcapEndorsements(
            pck_crl_issuer_chain=pck_crl.issuer_chain,
            root_ca_crl=root_ca_crl.content,
            pck_crl=pck_crl.content,
            tcb_info_issuer_chain=tcb_info.issuer_chain,
            tcb_info=tcb_info.content,
            tcb_info_signature=tcb_info.signature,
            qe_identity_issuer_chain=qe_identity.issuer_chain,
            qe_identity=qe_identity.content,
            qe_identity_signature=qe_identity.signature,
        )

    @override
    def crl(self, root_der: bytes, *, signing_key: EndorsementKey = "VCEK") -> bytes:
        """Return the revocation list of a root (see `RevocationSource`)."""
        name = x509.common_name(root_der)
        product = next((each for each in get_args(Product) if name == f"ARK-{each}"), None)
        if product is None:
            raise NotFoundError("the report's certificates do not end at a root of AMD's product lines")
        return from_hex(self.find(AmdCrlName(signing_key=signing_key, product=product)).document.content)

    @override
    def for_report(self, report: SnpReport) -> SnpEndorsements:
        """Return the endorsements of a report that came without certificates (see `SnpEndorsementSource`)."""
        if report.signing_key != "VCEK":
            raise NotFoundError(
                "AMD publishes certificates of chips' keys only, and another key signed the report",
                action="Send the certificate chain with the report: the host has it.",
            )
        if report.mask_chip_key:
            raise NotFoundError(
                "the report hides its chip, so that its certificate cannot be looked up",
                action="Send the certificate chain with the report, or have the host unmask the chip's id.",
            )
        product, vcek = self._vcek(report)
        crl = self.find(AmdCrlName(signing_key="VCEK", product=product)).document
        return SnpEndorsements(certificate_chain=vcek.content + vcek.issuer_chain, crl=crl.content)

    def _vcek(self, report: SnpReport) -> tuple[Product, Document]:
        products = _UNNAMED_PRODUCTS if report.cpuid is None else (report.cpuid.product,)
        for product in products[:-1]:
            try:
                return product, self.find(VcekName.of(report, product)).document
            except NotFoundError:
                continue
        return products[-1], self.find(VcekName.of(report, products[-1])).document


@lru_cache(maxsize=256)
def dcap_names(*, fmspc: str, ca: str, tee: Tee, edition: Edition = "standard") -> Sequence[IntelName]:
    """Return which documents a platform family's endorsements are made of.

    Returns:
        The names of PCK revocation list, root revocation list, TCB info and QE identity, in this order.

    Raises:
        FormatError: Not a platform family, or an unknown CA.
    """
    return (
        PckCrlName.from_object({"ca": ca}),
        RootCaCrlName(),
        TcbInfoName.from_object({"tee": tee, "fmspc": fmspc, "edition": edition}),
        QeIdentityName(tee=tee, edition=edition),
    )


def names_for(
    families: Sequence[PlatformFamily], products: Sequence[Product], *, edition: Edition = "standard"
) -> tuple[DocumentName, ...]:
    """Return the documents, each once, that are the same for all platforms of some families and product lines.

    Args:
        families: Of SGX and TDX platforms.
        products: Of SEV-SNP platforms: their CAs and revocation lists, for chips' and providers' keys; not the
            certificates of single chips.
        edition: Which of the vendor's evaluations.
    """
    names: list[DocumentName] = []
    for family in families:
        names += dcap_names(fmspc=family.fmspc, ca=family.ca, tee=family.tee, edition=edition)
    for product in products:
        for signing_key in get_args(EndorsementKey):
            names += [
                AmdChainName(signing_key=signing_key, product=product),
                AmdCrlName(signing_key=signing_key, product=product),
            ]
    return tuple(dict.fromkeys(names))
