"""Items made by a thread of their own, a few ahead of who takes them: so decoding, detecting and encoding overlap."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 0.1
"""Seconds between two looks at whether anybody still wants what the thread made."""


def ahead(items: Iterable[T], depth: int) -> Generator[T]:
    """The same items in the same order, at most ``depth`` of them waiting.

    What making them raises is raised here. Closing the iterator ends the thread before it returns.
    """
    made: Queue[tuple[T] | BaseException | None] = Queue(depth)
    closing = threading.Event()

    def put(item: tuple[T] | BaseException | None) -> None:
        while not closing.is_set():
            try:
                return made.put(item, timeout=PATIENCE)
            except Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put((item,))
                if closing.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            put(error)
        finally:
            if close := getattr(items, "close", None):
                close()
            put(None)

    thread = threading.Thread(target=make, name="ahead", daemon=True)
    thread.start()
    try:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        closing.set()
        thread.join()
