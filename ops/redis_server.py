"""A Redis server of Debian's for tests and drills."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sfumato.agents.broker import HOST, free_port


class Redis:
    """A context manager: on loopback, in ``folder``, in memory; :meth:`stop` and :meth:`start` again, empty;
    :meth:`pause` and :meth:`resume`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"redis://{HOST}:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        server = shutil.which("redis-server")
        if server is None:
            raise OSError("redis-server is missing: apt-get install redis-server")
        options = ["--bind", HOST, "--port", str(self._port), "--save", "", "--dir", str(self._folder)]
        self._process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection((HOST, self._port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("redis-server does not answer")

    def stop(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """It takes connections and answers nothing."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
