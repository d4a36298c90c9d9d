"""A file whose reading is seen: so that work on it can be ended, and is known to go on."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import IO, Any


class Watched(io.RawIOBase):
    """Reads ``file``, and calls ``seen`` before; what that raises ends the reading. ``broke`` is told what reading
    raised: a library may take that for the file's end, and go on."""

    def __init__(
        self,
        file: IO[bytes] | io.RawIOBase,
        seen: Callable[[], None],
        broke: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self._file: Any = file
        self._seen = seen
        self._broke = broke

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            self._seen()
            return bytes(self._file.read(size))
        except BaseException as error:
            self._broke(error)
            raise

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any, /) -> int:
        """Libraries ask for it, even where they only read."""
        raise io.UnsupportedOperation("not writable")

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
