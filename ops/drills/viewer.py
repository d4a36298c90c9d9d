"""Viewers of the bridge, one per camera, who come back whenever they are sent away."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Self

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from drills import marker
from sfumato.models import images

PATIENCE = 60.0


class Viewer:
    """A context manager. ``pictures`` were shown and searched, ``leaked`` of them show the marker."""

    def __init__(self, url: str, key: str, cameras: Sequence[str]) -> None:
        self.pictures = self.leaked = 0
        self._headers = {"Authorization": f"Bearer {key}"}
        self._closing = threading.Event()
        self._shown = threading.Condition()
        self._newest: dict[str, float] = dict.fromkeys(cameras, 0.0)
        live = url.replace("http", "ws") + "/v1/cameras/{}/live"
        self._threads = [
            threading.Thread(target=self._watch, args=(camera, live.format(camera)), daemon=True) for camera in cameras
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join(10)

    def await_pictures(self, since: float) -> float:
        """When every camera had been shown after ``since`` (monotonic, seconds); TimeoutError where that takes long."""
        with self._shown:
            if not self._shown.wait_for(lambda: min(self._newest.values()) >= since, PATIENCE):
                raise TimeoutError(f"viewers were shown nothing within {PATIENCE:g} s")
            return max(self._newest.values())

    def _watch(self, camera: str, url: str) -> None:
        while not self._closing.is_set():
            with (
                contextlib.suppress(OSError, WebSocketException, TimeoutError),
                connect(url, origin=None, additional_headers=self._headers, open_timeout=5) as socket,
            ):
                while not self._closing.is_set():
                    message = socket.recv(timeout=5)
                    if isinstance(message, bytes):
                        self._take(camera, message)
            self._closing.wait(0.1)

    def _take(self, camera: str, message: bytes) -> None:
        length = int.from_bytes(message[:4], "big")
        picture = images.decode(message[4 + length :], "image/jpeg", max_pixels=10**6)
        seen = marker.shows(picture)
        with self._shown:
            self.pictures += 1
            self.leaked += seen
            self._newest[camera] = time.monotonic()
            self._shown.notify_all()
