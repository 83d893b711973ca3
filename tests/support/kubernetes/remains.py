"""What a cluster leaves on this machine, and its removal by whoever is left when a session ends, however that ends.

A cluster writes down first what it is about to make. Everything else dies with the first process of its namespaces.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import Any, Final

from tests.support.kubernetes import cgroups
from tests.support.kubernetes.machine import search_path
from tests.support.kubernetes.processes import ProcessId, kill
from tests.support.kubernetes.site import Site

from strongroom.base.errors import ConflictError

_RECORD: Final = "record.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What there is of a cluster.

    Attributes:
        supervisor: The process that keeps it.
        node: The first process of the node's namespaces; with it they end.
        controllers: The controllers of cgroups that were handed on for it.
        ready: Whether all of the node's processes were started.
    """

    supervisor: ProcessId | None = None
    node: ProcessId | None = None
    controllers: Sequence[str] = ()
    ready: bool = False


def read_record(site: Site) -> Record:
    """Return what is written down of a site's cluster; an empty record where nothing is."""
    try:
        fields = json.loads((site.run / _RECORD).read_text())
    except (FileNotFoundError, ValueError):
        return Record()
    return Record(
        supervisor=_process(fields["supervisor"]),
        node=_process(fields["node"]),
        controllers=tuple(fields["controllers"]),
        ready=fields["ready"],
    )


def write_record(site: Site, **changed: Any) -> None:
    """Write down what has changed, whole or not at all."""
    record = replace(read_record(site), **changed)
    site.run.mkdir(parents=True, exist_ok=True)
    new = site.run / f"{_RECORD}.new"
    new.write_text(json.dumps(asdict(record)))
    new.rename(site.run / _RECORD)


def take_lock(site: Site, *, holder: str) -> int:
    """Take the site's lock for this process and those that inherit it.

    Args:
        site: The site.
        holder: Who takes it, for the message that others get.

    Returns:
        An open file: closing its last copy frees the lock.

    Raises:
        ConflictError: Somebody else has it.
    """
    while True:
        lock = os.open(site.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            said = os.pread(lock, 500, 0).decode(errors="replace")
            os.close(lock)
            raise ConflictError(
                f"another session has the cluster {site.name}: {said or 'it does not say which'}",
                action="wait for its end: one cluster at a time",
            ) from None
        with suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == site.lock.stat().st_ino:
                os.truncate(lock, 0)
                os.pwrite(lock, holder.encode(), 0)
                return lock
        os.close(lock)  # its last holder has removed it meanwhile


def give_up_lock(site: Site) -> None:
    """Remove the file of a lock that this process has; the lock is free when the last process with it ends."""
    site.lock.unlink(missing_ok=True)


def is_locked(site: Site) -> bool:
    """Return whether somebody has the lock, which is as long as there is something of a cluster."""
    try:
        lock = os.open(site.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        flock(lock, LOCK_EX | LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def remove(site: Site) -> None:
    """End what runs of a cluster and remove what there is of it; nothing to do when there is nothing.

    The caller has the site's lock. The logs stay, in `Site.last_logs`.

    Raises:
        UnavailableError: A process does not end.
    """
    record = read_record(site)
    if record.node is not None:
        kill(record.node)
    command = ["ip", "link", "delete", site.link]  # with it its routes go
    subprocess.run(command, env={"PATH": search_path()}, capture_output=True, check=False)
    cgroups.remove(site.name, record.controllers)
    if site.logs.exists():
        shutil.rmtree(site.last_logs, ignore_errors=True)
        site.logs.rename(site.last_logs)
    if site.run.exists():
        shutil.rmtree(site.run)


def main() -> None:
    """Wait until whoever started this process is gone, then remove what its cluster left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    site = Site.from_json(sys.argv[1])
    sys.stdin.buffer.read()
    remove(site)
    give_up_lock(site)


def _process(fields: Mapping[str, int] | None) -> ProcessId | None:
    return None if fields is None else ProcessId(**fields)


if __name__ == "__main__":
    main()
