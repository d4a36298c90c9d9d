"""A network that can be cut: a TCP proxy between the processes and the broker.

The broker advertises the proxy's address, so every connection of every client leads through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from enum import Enum, auto
from typing import Self

from sfumato.agents.broker import HOST

CHUNK = 256 * 1024


class Network(Enum):
    WHOLE = auto()
    SILENT = auto()
    """As a pulled cable: connections stay, new ones are taken, and nothing passes."""
    REFUSING = auto()
    """As a firewall that rejects: connections are reset, new ones too."""


class Proxy:
    """A context manager; forwards ``port`` of loopback to ``target`` on a thread of its own."""

    def __init__(self, port: int, target: int) -> None:
        self._port, self._target = port, target
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._refusing = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._passing.set()
        starting = asyncio.start_server(self._serve, HOST, self._port)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._reset)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def become(self, network: Network) -> None:
        self._loop.call_soon_threadsafe(self._become, network)

    def _become(self, network: Network) -> None:
        self._refusing = network is Network.REFUSING
        if network is Network.SILENT:
            self._passing.clear()
        else:
            self._passing.set()
        if self._refusing:
            self._reset()

    def _reset(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            for each in (writer, back):
                self._writers.discard(each)
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
