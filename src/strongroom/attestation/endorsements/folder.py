"""The documents in a folder of whole endorsements: what `DirectoryEndorsements` reads, taken apart again."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from typing_extensions import override

from strongroom.attestation.endorsements.dcap import DcapEndorsements, Tee, parse_endorsements
from strongroom.attestation.endorsements.documents import (
    AmdCrlName,
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
from strongroom.attestation.endorsements.tcb import parse_qe_identity, parse_tcb_info
from strongroom.attestation.evidence.pck import authority_kind
from strongroom.base.errors import NotFoundError, UnavailableError
from strongroom.base.limits import LIMITS
from strongroom.crypto import x509

_TDX: Final = "-tdx"


class FolderDocuments(DocumentSource):
    """Documents of a folder with `<fmspc>.json`, `<fmspc>-tdx.json` and `<root>.crl`, read anew each time.

    The newest file is asked first for what several of them hold. All files should be under one vendor's root.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def find(self, name: DocumentName) -> Found:
        """Return a document of the folder (see `DocumentSource`); its file's time is taken for when it was fetched."""
        match name:
            case PckCrlName():
                return self._intels(name, lambda each: authority_kind(_first(each.pck_crl_issuer_chain)) == name.ca)
            case RootCaCrlName():
                return self._intels(name, lambda _: True)
            case TcbInfoName():
                return self._intels(name, lambda each: _is_asked_for(each, name), tee=name.tee)
            case QeIdentityName():
                return self._intels(name, lambda each: _is_edition(_qe_number(each), name.edition), tee=name.tee)
            case AmdCrlName():
                return self._amds(name)
            case _:
                raise _not_found(name)

    def _intels(
        self, name: DocumentName, is_it: Callable[[DcapEndorsements], bool], *, tee: Tee | None = None
    ) -> Found:
        for file, content in self._files("*.json"):
            if tee is None or (tee == "TDX") == file.stem.endswith(_TDX):
                endorsements = parse_endorsements(content)
                if is_it(endorsements):
                    return Found(document=_part(name, endorsements), fetched_at=_time_of(file))
        raise _not_found(name)

    def _amds(self, name: AmdCrlName) -> Found:
        for file, content in self._files("*.crl"):
            if x509.crl_issuer(content) == f"ARK-{name.product}":
                return Found(document=Document(content=content.hex()), fetched_at=_time_of(file))
        raise _not_found(name)

    def _files(self, pattern: str) -> Iterator[tuple[Path, bytes]]:
        try:
            for file in sorted(self._path.glob(pattern), key=_time_of, reverse=True):
                if file.stat().st_size <= LIMITS.endorsement_bytes:
                    yield file, file.read_bytes()
        except OSError as error:
            raise UnavailableError(
                f"the folder of endorsements cannot be read: {error.strerror}", action="Look at the folder."
            ) from error


def _part(name: DocumentName, whole: DcapEndorsements) -> Document:
    match name:
        case PckCrlName():
            return Document(content=whole.pck_crl, issuer_chain=whole.pck_crl_issuer_chain)
        case RootCaCrlName():
            return Document(content=whole.root_ca_crl)
        case TcbInfoName():
            return Document(
                content=whole.tcb_info,
                signature=whole.tcb_info_signature,
                issuer_chain=whole.tcb_info_issuer_chain,
            )
        case QeIdentityName():
            return Document(
                content=whole.qe_identity,
                signature=whole.qe_identity_signature,
                issuer_chain=whole.qe_identity_issuer_chain,
            )
        case _:
            raise _not_found(name)


def _is_asked_for(whole: DcapEndorsements, name: TcbInfoName) -> bool:
    tcb_info = parse_tcb_info(whole.tcb_info)
    return tcb_info.fmspc.lower() == name.fmspc and _is_edition(tcb_info.tcb_evaluation_data_number, name.edition)


def _qe_number(whole: DcapEndorsements) -> int:
    return parse_qe_identity(whole.qe_identity).tcb_evaluation_data_number


def _is_edition(number: int, edition: Edition) -> bool:
    return edition in ("standard", number)


def _first(pem: str) -> bytes:
    return x509.parse_pem_chain(pem.encode())[0]


def _time_of(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime, tz=UTC)


def _not_found(name: DocumentName) -> NotFoundError:
    return NotFoundError(f"the folder of endorsements does not hold {name.key}", action="Put it there.")
