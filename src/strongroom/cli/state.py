"""Where an installation's files lie: one folder, split into what is the owner's and what an operator may see.

The environment is read here and nowhere else on the command line.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError
from strongroom.datasets.storage import Storage

ENVIRONMENT_NAME: Final = "STRONGROOM_STATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The paths of one installation.

    Attributes:
        root: The state folder, absolute.
    """

    root: Path

    @property
    def trust(self) -> Path:
        """The anchors that clients and auditors start from (`wire.trust.Trust`)."""
        return self.root / "trust.json"

    @property
    def seen_logs(self) -> Path:
        """The newest checkpoint that was seen of each key service's log."""
        return self.root / "seen-logs.json"

    @property
    def rotations(self) -> Path:
        """The identities that were replaced, for everybody who pinned one of them (`wire.rotation.Rotations`)."""
        return self.root / "rotations.json"

    @property
    def owner(self) -> Path:
        """What only the data owner may read: mode 700."""
        return self.root / "owner"

    @property
    def owner_key(self) -> Path:
        """The key that signs approvals, policies and the owner's requests (ES256)."""
        return self.owner / "owner.key"

    @property
    def submitter_key(self) -> Path:
        """The key that signs run tickets (ES256)."""
        return self.owner / "submitter.key"

    @property
    def recipient_key(self) -> Path:
        """The key to which applications' output is sealed (P-256)."""
        return self.owner / "recipient.key"

    @property
    def people(self) -> Path:
        """Who else than the owner the services know, and at which issuers people sign in; written by hand."""
        return self.owner / "people.json"

    @property
    def clusters(self) -> Path:
        """The clusters whose service accounts the key service knows; written by hand."""
        return self.owner / "clusters.json"

    @property
    def sign_in(self) -> Path:
        """Where this person signed in: tokens, in files that only this person may read."""
        return self.owner / "sign-in"

    @property
    def attestation_service(self) -> Path:
        """The attestation service's state."""
        return self.owner / "attestation-service"

    @property
    def key_service(self) -> Path:
        """The key service's state."""
        return self.owner / "key-service"

    @property
    def collateral_service(self) -> Path:
        """The collateral service's identity, where it runs on Kubernetes."""
        return self.owner / "collateral-service"

    @property
    def kubernetes(self) -> Path:
        """What the owner decided about services on Kubernetes (`cli.chart.Plan`)."""
        return self.owner / "kubernetes.json"

    @property
    def approvals(self) -> Path:
        """The descriptions that were approved, one file for each application and dataset."""
        return self.owner / "approvals"

    @property
    def witnesses(self) -> Path:
        """Which witnesses the key service has its log witnessed by."""
        return self.owner / "witnesses.json"

    @property
    def operator(self) -> Path:
        """What an operator may see."""
        return self.root / "operator"

    @property
    def platform(self) -> Path:
        """The simulated platform's state."""
        return self.operator / "platform"

    @property
    def packages(self) -> Path:
        """Packed applications, each in a folder named by its digest."""
        return self.operator / "packages"

    @property
    def runs(self) -> Path:
        """Runs, each in a folder named by its id."""
        return self.operator / "runs"

    @property
    def logs(self) -> Path:
        """What the processes in the background say."""
        return self.operator / "logs"

    @property
    def processes(self) -> Path:
        """Which processes `up` started."""
        return self.operator / "services.json"

    def storage(self, dataset: str) -> str:
        """Return the location where a dataset's ciphertext lies unless one is named."""
        return (self.operator / "storage" / dataset).as_uri()


def find_state(given: Path | None, *, environment: Mapping[str, str] | None = None) -> State:
    """Return the installation a command works on.

    Args:
        given: The folder named on the command line.
        environment: Variables to look up otherwise: STRONGROOM_STATE, XDG_DATA_HOME, HOME; the process's own if None.

    Raises:
        ConfigurationError: No folder is named and there is no home folder.
    """
    names = os.environ if environment is None else environment
    if given is None and (named := names.get(ENVIRONMENT_NAME)):
        given = Path(named)
    if given is None:
        data_home = names.get("XDG_DATA_HOME") or (f"{names['HOME']}/.local/share" if names.get("HOME") else "")
        if not data_home:
            raise ConfigurationError("there is no home folder", action="name a state folder: --state DIR")
        given = Path(data_home) / "strongroom"
    return State(root=given.expanduser().absolute())


def location_of(text: str) -> str:
    """Return a storage location from what a person types: a folder's path, or a URI.

    Raises:
        ConfigurationError: A URI of a kind of storage that is not supported.
    """
    location = text if "://" in text else Path(text).expanduser().absolute().as_uri()
    Storage(location)
    return location


def read_file(path: Path, *, what: str, action: str = "") -> bytes:
    """Return a file's bytes.

    Args:
        path: The file.
        what: What it is, for the error.
        action: What to do where it is missing.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{what} {path} cannot be read: {error.strerror}", action=action) from error


def inherited(names: Iterable[str]) -> dict[str, str]:
    """Return those of these environment variables that are set, and not empty."""
    return {name: os.environ[name] for name in names if os.environ.get(name)}
