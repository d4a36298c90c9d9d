"""A PostgreSQL server of Debian's for the tests, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from sfumato.agents.broker import free_port


class PostgreSQL:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._server = f"postgresql://postgres@127.0.0.1:{port}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"{self._server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{self._server}/{name}"


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """PostgreSQL refuses to run as root, so root becomes Debian's user postgres."""
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    user = "postgres" if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        if user is not None:
            shutil.chown(folder, user)
        data, port = f"{folder}/data", free_port()
        quiet = {"user": user, "check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
        subprocess.run([programs / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "--no-sync"], **quiet)  # type: ignore[call-overload]
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        control = [programs / "pg_ctl", "-D", data, "-w"]
        subprocess.run([*control, "-l", f"{folder}/log", "-o", options, "start"], **quiet)  # type: ignore[call-overload]
        try:
            yield PostgreSQL(port)
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **quiet)  # type: ignore[call-overload]
