"""Client of Azure's endorsement cache on the host (THIM), for guests: the certificates of the very chip they run on.

Source: Azure confidential VM, "Guest attestation: design detail"; Azure THIM, `/metadata/THIM/amd/certification`.
"""

from typing import Final

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import FormatError
from strongroom.clients.https import Https
from strongroom.crypto import x509

THIM: Final = "http://169.254.169.254"
"""The host's own address, which no packet leaves the machine for; it has no TLS."""
_PATH: Final = "/metadata/THIM/amd/certification"
_AUTHORITIES: Final = 2


class ThimClient:
    """The host's endorsement cache.

    Args:
        url: Where it is.
    """

    def __init__(self, url: str = THIM) -> None:
        self._server = Https(url, service="Azure's endorsement cache (THIM)", insecure_plain_http=True)

    def certificate_chain(self) -> str:
        """Return the chain of the key that signs this machine's SEV-SNP reports, not verified.

        Returns:
            PEM: VCEK, ASK, ARK; what `SnpEndorsements.certificate_chain` and Azure Attestation's requests hold.

        Raises:
            FormatError: The answer is malformed.
            LimitError: The answer is too large.
            NotFoundError: The host has no such cache.
            UnavailableError: Nothing answers: this is no confidential VM of Azure's.
        """
        match parse_json_object(self._server.get(_PATH, headers={"Metadata": "true"}).body):
            case {"vcekCert": str(vcek), "certificateChain": str(authorities)}:
                pass
            case _:
                raise FormatError("the host's endorsement cache answered without certificates")
        leaf, chain = (x509.parse_pem_chain(text.encode("utf-8", errors="replace")) for text in (vcek, authorities))
        if len(leaf) != 1 or len(chain) != _AUTHORITIES:
            raise FormatError("the host's endorsement cache answered with another number of certificates")
        return "".join(map(x509.to_pem, [*leaf, *chain]))
