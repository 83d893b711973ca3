"""Replacing the master key of a key service that does not run."""

from pathlib import Path

from strongroom.base.clock import Clock
from strongroom.base.errors import RefusedError
from strongroom.keys.providers import open_master_key
from strongroom.keys.store.database import SCHEMA
from strongroom.keys.store.databases import open_database
from strongroom.keys.store.master_key import add_master_key, open_store_key
from strongroom.services.files import replace_file
from strongroom.services.identity import open_identity, tls_names
from strongroom.services.key_service import COMMON_NAME, KeyServiceSettings, database_of, open_state, read_settings
from strongroom.services.master_key import demand_fitting


def rotate_master_key(config: Path, *, to: str, clock: Clock) -> None:
    """Replace the master key: it wraps the store's own key, and nothing else of the store has to change.

    1. The new master key is made if it is not there, and may open the store beside the old one.
    2. The configuration names the new one.
    3. The store is opened with the new one, which drops the old one's wrapping; the log says so.
    It may stop after any of these: what the configuration names opens the store, and running it again ends it, as the
    service's next start does.

    Args:
        config: The service's configuration file.
        to: Where the new master key is, such as `file:///…`.
        clock: The present time.

    Raises:
        ConfigurationError: The service runs; a master key is missing or cannot be used.
        IntegrityError: The state belongs to another master key than the configuration names.
        RefusedError: The service is in mode attested: its master key seals more than the store.
        UnavailableError: The database's server, or a master key's holder, does not answer.
    """
    settings = read_settings(config)
    if settings.mode == "attested":
        raise RefusedError(
            "a service in mode attested keeps its master key: its identity is sealed with it",
            action="Set up a new service with the new master key, and move the datasets (docs/how-to/master-key.md).",
        )
    demand_fitting(to, mode=settings.mode, has_platform=settings.platform is not None)
    if to != settings.master_key:  # else it stopped after 2
        _admit(settings, to)  # 1
        settings = settings.model_copy(update={"master_key": to})
        replace_file(config, settings.to_json())  # 2
    identity = open_identity(
        Path(settings.state), common_name=COMMON_NAME, sans=tls_names(settings.url, settings.names), now=clock.now()
    )
    store = open_state(settings, identity)
    try:
        store.end_master_key_rotation(now=clock.now())  # 3
    finally:
        store.close()


def _admit(settings: KeyServiceSettings, to: str) -> None:
    present = open_master_key(settings.master_key, create=False)
    database = open_database(database_of(settings), SCHEMA)  # before a key is made: it says whether the service runs
    try:
        with database.translated():
            writer = database.writer
            writer.begin()
            try:
                add_master_key(writer, open_store_key(writer, present), open_master_key(to, create=True))
                writer.commit()
            finally:
                writer.roll_back()
    finally:
        database.close()
