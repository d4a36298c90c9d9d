"""JPEGs of H.264 cameras, for those who cannot decode H.264 themselves; made only while somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import av

from sfumato.agents.decoding import UndecodableError, UnitDecoder
from sfumato.agents.live import Arrival, Camera, Group
from sfumato.models import images

THREADS = 2
IDLE = 10.0
"""Seconds after which a decoder that nobody asks is closed."""


class Still(NamedTuple):
    """A picture as JPEG, and the frame it is of."""

    arrival: Arrival
    jpeg: bytes


class Stills:
    """Belongs to the event loop's thread; decodes and encodes in threads of its own, one camera in one at a time."""

    def __init__(self, quality: int) -> None:
        self._quality = quality
        self._pool = ThreadPoolExecutor(THREADS, "stills")
        self._open: dict[str, _Film] = {}

    async def newest(self, camera: Camera) -> Still | None:
        """The newest picture; None where nothing of the current group can be decoded.

        While a new run repeats what was seen, it is a picture that is not new (:attr:`Arrival.new`).
        """
        if camera.newest.frame.unit is None:
            return Still(camera.newest, camera.newest.frame.payload)
        # Shielded: who asks may leave, but a decoder must not be used by two threads.
        return await asyncio.shield(self._decoded(camera, self._keep(camera.id)))

    async def _decoded(self, camera: Camera, film: _Film) -> Still | None:
        async with film.lock:
            units = film.unread(camera.groups[-1])
            if units:
                loop = asyncio.get_running_loop()
                film.still = await loop.run_in_executor(self._pool, film.decode, units, self._quality) or film.still
            return film.still

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _keep(self, camera: str) -> _Film:
        film = self._open.get(camera) or _Film()
        self._open[camera] = film
        if film.closing is not None:
            film.closing.cancel()
        film.closing = asyncio.get_running_loop().call_later(IDLE, self._open.pop, camera, None)
        return film


class _Film:
    """How far one camera's current group has been decoded."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.still: Still | None = None
        self.closing: asyncio.TimerHandle | None = None
        self._decoder: UnitDecoder[Arrival] = UnitDecoder()
        self._group: Group | None = None
        self._read = 0

    def unread(self, group: Group) -> Sequence[Arrival]:
        """The group's units that :meth:`decode` has not had."""
        if group.still:
            return ()
        if group is not self._group:
            self._group, self._read = group, 0
            self.still = self.still if group.continues else None
        units = group.arrivals[self._read :]
        self._read = len(group.arrivals)
        return units

    def decode(self, units: Sequence[Arrival], quality: int) -> Still | None:
        """The newest new picture of these units, or the newest of all; None without any."""
        newest: tuple[Arrival, av.VideoFrame] | None = None
        for arrival in units:
            try:
                pictures = self._decoder.decode(arrival.frame, arrival)
            except UndecodableError:
                continue  # until the next keyframe
            for found in pictures:
                newest = found if newest is None or found[0].new or not newest[0].new else newest
        if newest is None:
            return None
        arrival, picture = newest
        image: Any = picture.to_ndarray(format="bgr24")
        return Still(arrival, images.encode(image, quality))
