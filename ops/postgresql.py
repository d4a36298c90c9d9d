"""A PostgreSQL server of Debian's for tests and drills, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from sfumato.agents.broker import free_port


class PostgreSQL:
    """A server in ``folder``; :meth:`stop` and :meth:`start`, :meth:`pause` and :meth:`resume`, with what it holds.

    PostgreSQL refuses to run as root, so root becomes Debian's user postgres.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._programs = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self._user = "postgres" if os.getuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._running = False
        self._run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "--no-sync")
        self.start()

    def start(self) -> None:
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._control("-l", f"{self._folder}/log", "-o", options, "start")
        self._running = True

    def stop(self) -> None:
        """At once, as if it had crashed."""
        if self._running:
            self._running = False
            self._control("-m", "immediate", "stop")

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        for process in self._processes():
            process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            process.resume()

    def database(self) -> str:
        """The URL of a new, empty database."""
        server, name = f"postgresql://postgres@127.0.0.1:{self._port}", f"t{uuid.uuid4().hex}"
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"{server}/{name}"

    def _processes(self) -> list[psutil.Process]:
        main = psutil.Process(int((self._folder / "data" / "postmaster.pid").read_text().split()[0]))
        return [main, *main.children(recursive=True)]

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/data", "-w", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [self._programs / program, *arguments]
        subprocess.run(command, user=self._user, check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        server = PostgreSQL(Path(folder))
        try:
            yield server
        finally:
            server.stop()
