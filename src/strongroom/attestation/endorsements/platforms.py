"""Which endorsements a piece of evidence needs: the name of its platform.

Evidence of one run may come from several machines; their endorsements are asked for, kept and found by this name.
"""

import re
from collections.abc import Iterable
from typing import Final

from strongroom.attestation.endorsements.dcap import EndorsementSource
from strongroom.attestation.endorsements.snp import RevocationSource
from strongroom.attestation.evidence.dcap_quote import SgxQuote, TdxQuote, parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.pck import pck_chain, platform_kind
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.crypto.x509 import parse_pem_chain, spki_sha256

_DCAP: Final = re.compile(r"(sgx|tdx)\.([0-9a-f]{12})\.(platform|processor)\Z")
_SNP: Final = re.compile(r"snp\.([0-9a-f]{64})\Z")


def platform_of(evidence: UnverifiedEvidence) -> str:
    """Return the name of the platform that evidence says it comes from.

    Returns:
        For SGX and TDX the kind, FMSPC and PCK authority; for SEV-SNP the kind and the SHA-256 of the root's key.

    Raises:
        FormatError: The evidence is malformed, or an SEV-SNP report comes without certificates.
    """
    if evidence.kind == "snp":
        return f"snp.{spki_sha256(root_of(evidence))}"
    kind = platform_kind(_quote(evidence))
    return f"{evidence.kind}.{kind.fmspc}.{kind.ca}"


def root_of(evidence: UnverifiedEvidence) -> bytes:
    """Return the root, DER, under which evidence says that its platform's keys are certified.

    Raises:
        FormatError: The evidence is malformed, or an SEV-SNP report comes without certificates.
    """
    if evidence.kind != "snp":
        return pck_chain(_quote(evidence))[-1]
    if evidence.certificate_chain is None:
        raise FormatError("the SEV-SNP report comes without certificates")
    return parse_pem_chain(evidence.certificate_chain.encode("ascii", errors="replace"))[-1]


def find_endorsements(
    platform: str, *, dcap: EndorsementSource, revocations: RevocationSource, roots_der: Iterable[bytes]
) -> str:
    """Return the endorsements of a platform as text.

    Args:
        platform: From `platform_of`.
        dcap: Where those of SGX and TDX come from.
        revocations: Where the revocation lists of SEV-SNP's roots come from.
        roots_der: The trusted roots.

    Returns:
        The nine documents of SGX or TDX as JSON; for SEV-SNP the root's revocation list in hexadecimal.

    Raises:
        FormatError: No such name.
        NotFoundError: There are none, or the root is not trusted.
    """
    if found := _DCAP.match(platform):
        tee, fmspc, authority = found.groups()
        return dcap.get(fmspc=fmspc, ca=authority, tee="SGX" if tee == "sgx" else "TDX").to_json().decode()
    if found := _SNP.match(platform):
        for root_der in roots_der:
            if spki_sha256(root_der) == found[1]:
                return revocations.crl(root_der).hex()
        raise NotFoundError("the root of that platform is not trusted here")
    raise FormatError("not the name of a platform")


def _quote(evidence: UnverifiedEvidence) -> SgxQuote | TdxQuote:
    return parse_sgx_quote(evidence.quote) if evidence.kind == "sgx" else parse_tdx_quote(evidence.quote)
