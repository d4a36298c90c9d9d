"""Connections to PostgreSQL that give up: libpq waits for ever for a server that stands still.

An API call is then answered 503 instead of never, and the threads that others need come back. The server gives up, too:
it does not notice by itself that nobody waits for an answer any more, and what it was told still holds its locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection as Pooled
from sqlalchemy import Engine, event

CONNECT_TIMEOUT = 5
"""Longest wait for a connection, in seconds, where the URL says nothing else,"""
ANSWER_TIMEOUT = 10.0
"""and for the answer to a statement, its waiting for locks included;"""
STATEMENT_TIMEOUT = 9.0
"""the server's own limit, a little earlier, so that the connection can be used again;"""
CHECKED = 2.0
"""and how often it looks whether who waits for it is still there."""


class Connection(psycopg.Connection[Any]):
    """Raises psycopg.OperationalError, and is closed, where no answer comes within ``answer_timeout`` (None: never)."""

    answer_timeout: float | None = ANSWER_TIMEOUT

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, timeout or self.answer_timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # the answer may come yet, to nobody
                self.pgconn.finish()
            raise


def bound(engine: Engine) -> None:
    """Let the engine make such connections."""

    def connect(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> Connection:
        limits = {"statement_timeout": STATEMENT_TIMEOUT, "client_connection_check_interval": CHECKED}
        stated = [f"-c {name}={seconds * 1000:.0f}" for name, seconds in limits.items()]
        if "options" in options:
            stated.append(options["options"])  # the last one counts
        usual = {"connect_timeout": CONNECT_TIMEOUT}
        return Connection.connect(*arguments, **{**usual, **options, "options": " ".join(stated)})

    event.listen(engine, "do_connect", connect)


@contextmanager
def patient(pooled: Pooled) -> Iterator[None]:
    """Meanwhile this connection waits as long as it takes, up to the end of its transaction."""
    pooled.exec_driver_sql("SET LOCAL statement_timeout = 0")
    connection = cast(Connection, pooled.connection.driver_connection)
    connection.answer_timeout = None
    try:
        yield
    finally:
        del connection.answer_timeout  # as of others
