"""A PostgreSQL server of a test's own: an unprivileged process on a Unix socket in a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from typing_extensions import override

from strongroom.services.identity import open_identity

_ROLE = "strongroom"
_NETWORK_ROLE = "keys"
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
}


class PostgresServer:
    """One server with as many databases as tests ask for."""

    def __init__(self) -> None:
        self._settings = dict(_SETTINGS)
        self.folder = Path(tempfile.mkdtemp(prefix="strongroom-postgres-"))
        self._account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self._account is not None:  # PostgreSQL never runs as root
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._numbers = count()
        self._run("initdb", "--auth=trust", "--no-sync", "--no-locale", "--encoding=UTF8", f"--username={_ROLE}")

    def start(self) -> None:
        """Start it; it answers when this returns."""
        given = " ".join(f"-c {name}='{value}'" for name, value in self._settings.items())
        options = f"-k {self.folder} {given}"
        self._run("pg_ctl", "start", "--wait", f"--log={self.folder}/log", f"--options={options}")

    def stop(self, *, mode: str = "fast") -> None:
        """Stop it; `immediate` is as good as pulling the plug."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def new_database(self) -> str:
        """Make an empty database; return its URL."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as link:
            link.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://{_ROLE}@/{database}?host={self.folder}"

    def end_connections(self, url: str) -> None:
        """End all connections to a database, as a server that is restarted does."""
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self.url("postgres"), autocommit=True) as link:
            link.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    def remove(self) -> None:
        """Stop it if it runs, and delete everything."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop(mode="immediate")
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [_path_of(program), *arguments, f"--pgdata={self.folder}/data"]
        account = self._account
        as_whom: dict[str, Any] = {}
        if account is not None:
            as_whom = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **as_whom)


class NetworkServer(PostgresServer):
    """A server that others reach over TLS, with a password.

    Args:
        address: An address of this machine.
    """

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address, self.port = address, _free_port(address)
        self.password = "a password of a test"
        self._settings |= {"listen_addresses": address, "port": str(self.port), "ssl": "on"}
        now = datetime.now(tz=UTC)
        identity = open_identity(self.folder / "identity", common_name="postgres", sans=[address], now=now)
        self.authority_pem = identity.certificate_pem
        self._give("server.crt", identity.tls_chain_pem.encode())
        self._give("server.key", identity.tls.key.to_pem().reveal())
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text(f"{rules.read_text()}\nhostssl all {_NETWORK_ROLE} 0.0.0.0/0 scram-sha-256\n")

    @override
    def start(self) -> None:
        """Start it, with a role that has the password and makes databases."""
        super().start()
        with psycopg.connect(self.url("postgres"), autocommit=True) as link:
            link.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(
                    sql.Identifier(_NETWORK_ROLE), sql.Literal(self.password)
                )
            )

    def new_network_database(self) -> str:
        """Make an empty database of that role; return the URL by which others reach it, without its password."""
        name = f"network{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as link:
            link.execute(f"CREATE DATABASE {name} OWNER {_NETWORK_ROLE}")
        return f"postgresql://{_NETWORK_ROLE}@{self.address}:{self.port}/{name}?sslmode=verify-full"

    @property
    def password_file(self) -> str:
        """The one line of a password file for it."""
        return f"{self.address}:{self.port}:*:{_NETWORK_ROLE}:{self.password}\n"

    @override
    def url(self, database: str) -> str:
        return f"postgresql://{_ROLE}@/{database}?host={self.folder}&port={self.port}"

    def _give(self, name: str, content: bytes) -> None:
        path = self.folder / "data" / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _path_of(program: str) -> str:
    """Debian keeps the server's programs by version, outside PATH."""
    kept = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))
    found = str(kept[-1]) if kept else shutil.which(program)
    assert found is not None, program
    return found
