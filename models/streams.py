"""The pictures of a batch through a detector, several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from sfumato.models.detectors import Image, Smallest
from sfumato.schemas.detection import Detection

Look = Callable[[Image, int | None], tuple[Detection, ...]]
"""A picture and the height of the smallest object to be caught in it, in pixels; what was found."""


class Streams:
    """``count`` pictures at a time: one by one on a CPU, whose cores share a picture; more where a GPU waits for what
    is done before and after it on the CPU. Which pays: ``docs/gpu.md``."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="detector") if count > 1 else None

    def look(self, look: Look, pictures: Sequence[Image], smallest: Smallest) -> list[tuple[Detection, ...]]:
        """What ``look`` finds in each picture, in order. Raises what it raises for any of them."""
        each = self._pool.map if self._pool else map
        return list(each(look, pictures, smallest or repeat(None, len(pictures))))
