"""How the process of a Faust agent ends: at once, with a status that says whether a fresh one may do better.

An agent that raised would lose its batch and what is buffered behind it, so its body stands inside :func:`starting`
and then :func:`working`, out of which only the end of the process leads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

log = logging.getLogger(__name__)

EXIT_CONFIGURATION = 78
"""Exit status for what a restart cannot mend (sysexits.h: EX_CONFIG); the supervisor then stops."""
EXIT_RESTART = 75
"""Exit status that asks the supervisor for a fresh process (sysexits.h: EX_TEMPFAIL)."""
SHUTDOWN_TIMEOUT = 10.0
"""Seconds."""
TOLD = 500
"""Characters of an error that are logged: one of the database holds its whole statement."""


def leave(why: str, status: int) -> NoReturn:
    """End the process at once: what was not acknowledged is replayed by the next one."""
    log.critical("leaving: %s", why)
    logging.shutdown()
    os._exit(status)


def restart(why: str) -> NoReturn:
    """Leave, and ask for a fresh process."""
    leave(why, EXIT_RESTART)


def restart_on_failure(task: asyncio.Task[None]) -> None:
    """A task's done callback."""
    if not task.cancelled():
        restart(repr(task.exception())[:TOLD])


def end_within(seconds: float) -> None:
    """End the process even where a thread of a library would keep it from ending."""
    timer = threading.Timer(seconds, leave, ("shutdown took too long", 0))
    timer.daemon = True
    timer.start()


@contextmanager
def starting(*unmended: type[Exception]) -> Iterator[None]:
    """What an agent needs is made inside. ``unmended``: errors that a restart does not mend."""
    try:
        yield
    except unmended as error:
        leave(str(error), EXIT_CONFIGURATION)
    except Exception as error:  # noqa: BLE001 - a supervisor restarts the process
        restart(f"cannot start: {error!r}")


@contextmanager
def working(*unmended: type[Exception]) -> Iterator[None]:
    """The agent's stream is read inside, until Faust cancels it. ``unmended``: as of :func:`starting`."""
    try:
        yield
    except asyncio.CancelledError:
        end_within(SHUTDOWN_TIMEOUT)
        raise
    except unmended as error:
        leave(str(error), EXIT_CONFIGURATION)
    except Exception as error:  # noqa: BLE001 - Faust would lose what is buffered
        restart(repr(error))
