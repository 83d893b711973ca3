"""Client of AMD's key distribution service (KDS), and of caches that speak like it.

Source: AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification (57230), chapter 4.
"""

from datetime import timedelta
from typing import Final

from typing_extensions import override

from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    Document,
    DocumentName,
    DocumentSource,
    Found,
    VcekName,
)
from strongroom.base.clock import Clock
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.clients.https import Fetched, Https
from strongroom.crypto import x509

AMD_KDS: Final = "https://kdsintf.amd.com"
_AUTHORITIES: Final = 2


class KdsClient(DocumentSource):
    """The documents of SEV-SNP platforms, asked for anew each time. Nothing is verified here.

    Args:
        server: The KDS, or a cache.
        clock: When an answer came.
    """

    def __init__(self, server: Https, *, clock: Clock) -> None:
        self._server, self._clock = server, clock

    @override
    def find(self, name: DocumentName) -> Found:
        """Fetch a document (see `DocumentSource`). A chip's certificate comes with its issuers'.

        Raises:
            NotFoundError: The server has none, or it is another vendor's.
            FormatError: The answer is malformed.
            VerificationError: What answers is not the server.
            LimitError: The answer is too large.
            UnavailableError: The server does not answer, or wants to be asked less often.
        """
        match name:
            case AmdChainName():
                answer = self._server.get(f"/{name.signing_key.lower()}/v1/{name.product}/cert_chain")
                document = Document(content=_authorities(answer))
            case AmdCrlName():
                answer = self._server.get(f"/{name.signing_key.lower()}/v1/{name.product}/crl")
                x509.crl_pem(answer.body)  # that it is one
                document = Document(content=answer.body.hex())
            case VcekName():
                answer = self._server.get(f"/vcek/v1/{name.product}/{name.hwid}?{_versions(name)}")
                authorities = self._server.get(f"/vcek/v1/{name.product}/cert_chain")
                document = Document(content=x509.to_pem(answer.body), issuer_chain=_authorities(authorities))
            case _:
                raise NotFoundError(f"AMD does not publish {name.key}")
        return Found(document=document, fetched_at=self._clock.now() - timedelta(seconds=answer.age_s))


def _versions(name: VcekName) -> str:
    parts = {"blSPL": name.boot_loader, "teeSPL": name.tee, "snpSPL": name.snp, "ucodeSPL": name.microcode}
    if name.fmc is not None:
        parts = {"fmcSPL": name.fmc, **parts}
    return "&".join(f"{part}={version:02d}" for part, version in parts.items())


def _authorities(answer: Fetched) -> str:
    chain = x509.parse_pem_chain(answer.body)
    if len(chain) != _AUTHORITIES:
        raise FormatError("a certificate chain of AMD's has two certificates")
    return "".join(map(x509.to_pem, chain))
