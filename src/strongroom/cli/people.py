"""Who else than its owner an installation's services know: `owner/people.json`, which the owner writes by hand."""

from typing import Literal

from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cli.state import State, read_file
from strongroom.crypto.keys import VerifyingKey
from strongroom.services.people import PeopleSettings, PersonSettings, Role
from strongroom.services.sign_in import OidcIssuerSettings
from strongroom.wire.model import Message


class PeopleFile(Message):
    """The file.

    Attributes:
        people: People with names and roles. Who owns this installation may stand here too, with the key in owner.jwk,
            to have a name, a sign-in, or other roles.
        issuers: The OIDC issuers at which people sign in.
    """

    version: Literal[1] = 1
    people: tuple[PersonSettings, ...]
    issuers: tuple[OidcIssuerSettings, ...] = ()


def read_people(state: State, *, owner: VerifyingKey) -> PeopleSettings:
    """Return what the services' configurations say of people: the owner alone, where there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or is not one, or nobody is an owner.
    """
    if not state.people.exists():
        return PeopleSettings(owners=(owner.to_jwk(),))
    try:
        found = PeopleFile.from_json(read_file(state.people, what="the people"))
        named = {VerifyingKey.from_jwk(person.key).thumbprint for person in found.people if person.key is not None}
        owners = [] if owner.thumbprint in named else [owner.to_jwk()]
        return PeopleSettings.from_object({**found.model_dump(mode="json", exclude={"version"}), "owners": owners})
    except FormatError as error:
        raise ConfigurationError(f"{state.people} is {error.message}", action="see docs/how-to/sign-in.md") from error


def owner_thumbprints(people: PeopleSettings) -> tuple[str, ...]:
    """Return the thumbprints of the keys whose approvals an auditor accepts."""
    signers = [person.key for person in people.people if person.key and {Role.OWNER, Role.APPROVER} & {*person.roles}]
    return tuple(VerifyingKey.from_jwk(jwk).thumbprint for jwk in (*people.owners, *signers))
