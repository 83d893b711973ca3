"""What the commands of custodians do: files in, files out, and whom to expect behind an address."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from strongroom.base.clock import Clock
from strongroom.base.errors import ConfigurationError, ConflictError
from strongroom.base.secret import SecretBytes
from strongroom.cli.owner_keys import load_recipient_key, public_key_of
from strongroom.cli.state import read_file
from strongroom.clients.custody import CustodyClient, UnsafeHttp
from strongroom.crypto.jose import open_as_recipient, seal_to_recipients
from strongroom.datasets.storage import write_file
from strongroom.keys.custody import make_custody
from strongroom.services.key_service import configuration_of, read_settings
from strongroom.services.master_key import holder_of, load_roster, read_roster
from strongroom.submit.custody import ExpectedService, new_nonce, pin_service, verify_locked
from strongroom.submit.run import load_trust
from strongroom.wire.custody import CustodyRoster
from strongroom.wire.trust import TrustedService

_ROSTER: Final = "roster.json"


def split_for(custodians: Sequence[str], *, threshold: int, out: Path) -> tuple[CustodyRoster, tuple[Path, ...]]:
    """Make a master key, split it, and write the roster and the custodians' sealed shares into a new folder.

    Args:
        custodians: Each as NAME=FILE, the file with a public P-256 JWK.
        threshold: How many it takes.
        out: The folder to make.

    Returns:
        The roster, and the shares' files.

    Raises:
        ConfigurationError: A custodian is not of that form, or the key cannot be read.
        ConflictError: The folder exists.
        FormatError: A name, a number or a key does not serve.
    """
    pairs = [each.partition("=") for each in custodians]
    if not all(name and equals and file for name, equals, file in pairs):
        raise ConfigurationError("a custodian is written NAME=FILE", action="For example: --custodian ann=ann.jwk")
    keys = [public_key_of(file).to_jwk() for _, _, file in pairs]
    if len({str(sorted(key.items())) for key in keys}) != len(keys):
        raise ConfigurationError("two custodians have the same key", action="Each custodian keeps a key of their own.")
    made = make_custody([name for name, _, _ in pairs], threshold=threshold)
    sealed = [
        seal_to_recipients(share.reveal(), recipient_jwks=[key]) for share, key in zip(made.shares, keys, strict=True)
    ]
    try:
        out.mkdir(parents=True)
    except FileExistsError as error:
        raise ConflictError(
            f"{out} exists already", action="Name a new folder: a share is never written over."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be made: {error.strerror}") from error
    files = tuple(out / f"{each.name}.share.jwe" for each in made.roster.custodians)
    for file, content in zip(files, sealed, strict=True):
        write_file(file, content)
    write_file(out / _ROSTER, made.roster.to_json())
    return made.roster, files


def open_share(path: Path, *, key: Path) -> SecretBytes:
    """Open a custodian's share with the custodian's private key.

    Raises:
        ConfigurationError: A file cannot be read, or others may read the key.
        IntegrityError: The share is another custodian's, or was changed.
    """
    sealed = read_file(path, what="the share", action="name the file that `custody split` wrote for you: --share FILE")
    return SecretBytes(open_as_recipient(sealed, key=load_recipient_key(key)))


def expected_service(
    config: Path, *, measurement: str | None, trust: Path, roster: Path | None = None, address: str | None = None
) -> ExpectedService:
    """Return what a key service must prove to be.

    Args:
        config: Its configuration, as its owner gave it.
        roster: The custodians' roster; None reads it from where the configuration says.
        measurement: Its code's MRENCLAVE; None takes that of the trust file's key service.
        trust: The trust file.
        address: Where this client reaches it; None: where its configuration says.

    Raises:
        ConfigurationError: The configuration is not an attested service's, or no measurement is known.
    """
    settings, anchors = read_settings(config), load_trust(trust)
    if settings.mode != "attested":
        raise ConfigurationError(
            f"{config} is not the configuration of an attested key service", action='It says "mode": "attested".'
        )
    if roster is not None and holder_of(settings.master_key) != "custody":
        raise ConfigurationError(f"the master key of {config} is in nobody's custody", action="Leave --roster out.")
    pinned = next((each.measurement for each in anchors.services if each.service == "key-service"), None)
    if measurement is None and pinned is None:
        raise ConfigurationError(
            "no measurement of the key service's code is known", action="Name it: --measurement HEX"
        )
    custodians = read_roster(settings.master_key) if roster is None else load_roster(roster)
    own_url = settings.url.rstrip("/")
    url = address.rstrip("/") if address is not None else own_url
    return ExpectedService(
        trust=anchors,
        url=url,
        cluster_url=None if url == own_url else own_url,
        measurement=measurement or pinned or "",
        configuration=configuration_of(settings, roster=custodians),
        roster=custodians,
        master_key=holder_of(settings.master_key),
    )


def custody_client(expected: ExpectedService) -> CustodyClient:
    """Return a connection to a service that has to prove what it is in each answer."""
    return CustodyClient(UnsafeHttp(expected.url))


def verified_progress(client: CustodyClient, *, expected: ExpectedService, clock: Clock) -> dict[str, Any]:
    """Return whether a service is locked, and whose shares it has, once its evidence is verified.

    Raises:
        VerificationError: The evidence does not hold.
        RefusedError: It is another service.
        UnavailableError: It does not answer.
    """
    if not client.is_locked():
        pin_service(client, expected=expected, clock=clock)
        return {"locked": False}
    nonce = new_nonce()
    locked = verify_locked(client.evidence(nonce), expected=expected, nonce=nonce, clock=clock)
    custodians = [{"number": each.number, "name": each.name} for each in locked.roster.custodians]
    return {
        "locked": True,
        "needed": locked.roster.threshold,
        "given": list(locked.given),
        "custodians": custodians,
    }


def pin_into_trust(path: Path, client: CustodyClient, *, expected: ExpectedService, clock: Clock) -> TrustedService:
    """Put a verified attested key service into the trust file, in the place of the one that is there.

    Raises:
        VerificationError: Its evidence does not hold.
        RefusedError: It is another service.
        UnavailableError: It is locked, or does not answer.
    """
    service = pin_service(client, expected=expected, clock=clock)
    others = tuple(each for each in expected.trust.services if each.service != "key-service")
    write_file(path, expected.trust.model_copy(update={"services": (*others, service)}).to_json())
    return service
