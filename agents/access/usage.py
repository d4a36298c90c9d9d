"""What each caller has used, by day, and the daily quotas of keys. Written once a second, not once a request."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, String, literal, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column
from starlette.exceptions import HTTPException

from sfumato.agents.access.callers import Caller
from sfumato.agents.access.keys import Key
from sfumato.agents.access.recent import Recent
from sfumato.agents.database import Base, Database

log = logging.getLogger(__name__)

FLUSH = 1.0
"""Seconds for which counts are held in memory: what a killed process loses."""
USED = timedelta(minutes=1)
"""How exactly a key's last use is kept."""


class Used(Base):
    """One caller's use on one day, in UTC."""

    __tablename__ = "usage"

    caller: Mapped[str] = mapped_column(String(300), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    frames: Mapped[int] = mapped_column(BigInteger)
    bytes_in: Mapped[int] = mapped_column(BigInteger)
    bytes_out: Mapped[int] = mapped_column(BigInteger)


@dataclass(frozen=True, slots=True)
class Counts:
    requests: int = 0
    frames: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


Slot = tuple[str, date]


class Usage:
    """Thread-safe. Several processes may count one caller; each knows of what another counted within two seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[Slot, Counts] = {}
        self._leaving: dict[Slot, Counts] = {}  # being written
        self._stored: Recent[str, Counts] = Recent(FLUSH)  # today's, as read
        self._stamped: dict[str, datetime] = {}
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, caller_id: str, *, requests: int = 0, frames: int = 0, bytes_in: int = 0, bytes_out: int = 0) -> None:
        """Count; the bridge itself counts every request and its bytes, so an endpoint adds what it alone knows."""
        slot = (caller_id[:300], _today())
        with self._lock:
            self._waiting[slot] = self._waiting.get(slot, Counts()) + Counts(requests, frames, bytes_in, bytes_out)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
                self._thread.start()

    def check(self, caller: Caller) -> None:
        """429 where a daily quota of the caller is spent: bytes in and out together, or frames."""
        if not caller.has_quota:
            return
        used = self.today(caller.id)
        for name, quota, spent in (
            ("bytes", caller.bytes_a_day, used.bytes_in + used.bytes_out),
            ("frames", caller.frames_a_day, used.frames),
        ):
            if quota is not None and spent >= quota:
                raise HTTPException(
                    429,
                    f"{name}_a_day: this key's quota of {quota} {name} a day is spent; it begins anew at 00:00 UTC",
                    {"Retry-After": str(_until_midnight())},
                )

    def today(self, caller_id: str) -> Counts:
        """What the caller has used today."""
        slot = (caller_id[:300], _today())
        stored = self._stored.get(caller_id)
        if stored is None:
            with self._flushing:  # nothing is between memory and the database
                with self._database.read() as session:
                    row = session.get(Used, slot)
                stored = Counts() if row is None else Counts(row.requests, row.frames, row.bytes_in, row.bytes_out)
                self._stored.put(caller_id, stored)
        with self._lock:
            return stored + self._leaving.get(slot, Counts()) + self._waiting.get(slot, Counts())

    def between(
        self,
        start: date,
        end: date,
        caller_id: str | None = None,
        *,
        after: tuple[date, str] | None = None,
        limit: int | None = None,
    ) -> list[Used]:
        """What was used on these days, both included, by one caller or by all; by day, then caller. ``after``: what
        lies behind this day and caller."""
        self.flush()
        wanted = select(Used).where(Used.day >= start, Used.day <= end).order_by(Used.day, Used.caller).limit(limit)
        if caller_id is not None:
            wanted = wanted.where(Used.caller == caller_id[:300])
        if after is not None:
            wanted = wanted.where(tuple_(Used.day, Used.caller) > tuple_(literal(after[0]), literal(after[1])))
        with self._database.read() as session:
            return [*session.scalars(wanted)]

    def flush(self) -> None:
        """Write what waits, in one transaction."""
        with self._flushing:
            with self._lock:
                self._leaving, self._waiting = self._waiting, {}
                leaving = self._leaving
            if not leaving:
                return
            try:
                with self._database.begin() as session:
                    for slot, counts in sorted(leaving.items()):
                        _store(session, slot, counts)
                    self._stamp(session, {caller for caller, _ in leaving})
            except BaseException:
                with self._lock:  # again the next time
                    for slot, counts in leaving.items():
                        self._waiting[slot] = self._waiting.get(slot, Counts()) + counts
                    self._leaving = {}
                raise
            with self._lock:
                self._leaving = {}
                self._stored.clear()

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()

    def _stamp(self, session: Session, callers: Iterable[str]) -> None:
        """The keys' last use."""
        now = datetime.now(UTC)
        self._stamped = {id: at for id, at in self._stamped.items() if now - at < USED}
        used = {caller.removeprefix("key:") for caller in callers if caller.startswith("key:")} - self._stamped.keys()
        session.execute(update(Key).where(Key.id.in_(used)).values(used_at=now))
        self._stamped |= dict.fromkeys(used, now)

    def _run(self) -> None:
        while not self._closing.wait(FLUSH):
            try:
                self.flush()
            except Exception:
                log.exception("usage could not be written; it is kept in memory and tried again")


def _store(session: Session, slot: Slot, counts: Counts) -> None:
    """Add to the row, which may not be there yet, whoever else writes it."""
    inserts: dict[str, Callable[[Any], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    caller, day = slot
    values = {name: getattr(counts, name) for name in Counts.__dataclass_fields__}
    insert = inserts[session.get_bind().dialect.name](Used).values(caller=caller, day=day, **values)
    added = {name: getattr(Used, name) + value for name, value in values.items()}
    session.execute(insert.on_conflict_do_update(index_elements=[Used.caller, Used.day], set_=added))


def _today() -> date:
    return datetime.now(UTC).date()


def _until_midnight() -> int:
    now = datetime.now(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
    return max(1, int((midnight - now).total_seconds()))
