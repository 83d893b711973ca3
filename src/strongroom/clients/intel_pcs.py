"""Client of Intel's provisioning certification service (PCS), version 4, and of caches that speak like it (PCCS).

Source: Intel SGX Provisioning Certification Service API, version 4; Intel SGX PCCS design guide.
"""

import json
import re
from datetime import timedelta
from typing import Final
from urllib.parse import unquote, urlsplit

from typing_extensions import override

from strongroom.attestation.endorsements.documents import (
    Document,
    DocumentName,
    DocumentSource,
    Edition,
    Found,
    PckCrlName,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
)
from strongroom.base.clock import Clock
from strongroom.base.encoding import from_hex, parse_json_object
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.clients.https import Fetched, Https
from strongroom.crypto import x509

INTEL_PCS: Final = "https://api.trustedservices.intel.com"
_INTEL_HOST: Final = urlsplit(INTEL_PCS).hostname
_CRL_CHAIN: Final = ("sgx-pck-crl-issuer-chain",)
_TCB_CHAIN: Final = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
_QE_CHAIN: Final = ("sgx-enclave-identity-issuer-chain",)
_DER_SEQUENCE: Final = 0x30
_SIGNATURE_BYTES: Final = 64


class PcsClient(DocumentSource):
    """The documents of SGX and TDX platforms, asked for anew each time. Nothing is verified here.

    Args:
        server: The PCS or PCCS.
        clock: When an answer came.
        root_crl: Where the root's revocation list is; None asks the server itself, as a PCCS has it. Intel's PCS has
            none: there it is the address in the root certificate (`root_crl_address`).
        edition: Which of the vendor's evaluations `get` asks for.
    """

    def __init__(
        self, server: Https, *, clock: Clock, root_crl: Https | None = None, edition: Edition = "standard"
    ) -> None:
        self.edition = edition
        self._server, self._root_crl, self._clock = server, root_crl, clock

    @override
    def find(self, name: DocumentName) -> Found:
        """Fetch a document (see `DocumentSource`).

        Raises:
            NotFoundError: The server has none, or it is another vendor's.
            FormatError: The answer is malformed.
            VerificationError: What answers is not the server.
            LimitError: The answer is too large.
            UnavailableError: The server does not answer.
        """
        match name:
            case PckCrlName():
                answer = self._server.get(f"/sgx/certification/v4/pckcrl?ca={name.ca}&encoding=der")
                document = Document(content=_crl(answer).hex(), issuer_chain=_issuer_chain(answer, _CRL_CHAIN))
            case RootCaCrlName():
                if self._root_crl is None:
                    answer = self._server.get("/sgx/certification/v4/rootcacrl")
                else:
                    answer = self._root_crl.get("")
                document = Document(content=_crl(answer).hex())
            case TcbInfoName():
                query = f"fmspc={name.fmspc.upper()}&{_edition(name.edition)}"
                answer = self._server.get(f"/{name.tee.lower()}/certification/v4/tcb?{query}")
                document = _signed(answer, member="tcbInfo", chain=_TCB_CHAIN)
            case QeIdentityName():
                answer = self._server.get(f"/{name.tee.lower()}/certification/v4/qe/identity?{_edition(name.edition)}")
                document = _signed(answer, member="enclaveIdentity", chain=_QE_CHAIN)
            case _:
                raise NotFoundError(f"Intel does not publish {name.key}")
        return Found(document=document, fetched_at=self._clock.now() - timedelta(seconds=answer.age_s))


def lacks_root_crl(url: str) -> bool:
    """Return whether a server is one that does not hand out the root's revocation list: Intel's own."""
    return urlsplit(url).hostname == _INTEL_HOST


def root_crl_address(root_der: bytes) -> str:
    """Return where a root's own revocation list is: the address that the (trusted) root certificate names.

    Raises:
        NotFoundError: It names none that starts with `https:`.
    """
    address = next((each for each in x509.crl_distribution_points(root_der) if each.startswith("https://")), None)
    if address is None:
        raise NotFoundError(
            "the root certificate does not say where its revocation list is", action="Configure the address."
        )
    return address


def cut_member(text: str, member: str) -> str:
    """Return the exact text of one member's value in a JSON object that holds it and a signature, nothing else.

    Args:
        text: The object.
        member: The member's name.

    Raises:
        FormatError: Not such an object.
    """
    whole = parse_json_object(text)
    signature, value = whole.get("signature"), whole.get(member)
    if set(whole) != {member, "signature"} or not isinstance(value, dict) or not isinstance(signature, str):
        raise FormatError(f"the answer does not hold exactly {member} and its signature")
    from_hex(signature.lower(), size_bytes=_SIGNATURE_BYTES)  # so that the name cannot stand inside of it
    start = re.search(rf'"{member}"\s*:\s*', text)
    if start is None:
        raise FormatError(f"{member} is written with escapes")
    found, end = json.JSONDecoder().raw_decode(text, start.end())
    if found != value:
        raise FormatError(f"{member} cannot be told apart in the answer")
    return text[start.end() : end]


def _signed(answer: Fetched, *, member: str, chain: tuple[str, ...]) -> Document:
    try:
        text = answer.body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("the answer is not UTF-8 text") from error
    content = cut_member(text, member)
    signature = str(parse_json_object(text)["signature"]).lower()
    return Document(content=content, signature=signature, issuer_chain=_issuer_chain(answer, chain))


def _issuer_chain(answer: Fetched, names: tuple[str, ...]) -> str:
    header = next((answer.headers[name] for name in names if name in answer.headers), None)
    if header is None:
        raise FormatError("the answer does not carry its issuer's certificates")
    return "".join(map(x509.to_pem, x509.parse_pem_chain(unquote(header).encode())))


def _crl(answer: Fetched) -> bytes:
    """Return a revocation list in DER, from DER, PEM or hexadecimal text: caches differ in what they send."""
    body = answer.body
    if body[:1] == bytes([_DER_SEQUENCE]):
        crl_der = body
    elif body.lstrip().startswith(b"-----BEGIN"):
        return x509.crl_from_pem(body)
    else:
        crl_der = from_hex(body.decode("ascii", errors="replace").strip().lower())
    x509.crl_pem(crl_der)  # that it is one
    return crl_der


def _edition(edition: Edition) -> str:
    return f"tcbEvaluationDataNumber={edition}" if isinstance(edition, int) else f"update={edition}"
