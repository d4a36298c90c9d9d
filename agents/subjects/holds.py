"""The hours of raw footage that open subject requests name: their keys are not shredded meanwhile.

Who asked for their pictures is answered within a time (GDPR Article 12(3)) and may have them kept (18(1)(c)), so to
delete them first would be a fault. A request holds footage until it ends, by ``SFUMATO_SUBJECT_HOURS`` at the latest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import select

from sfumato.agents.database import Database
from sfumato.agents.footage.stores import hour_of, named
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.disclosures import Disclosures, UntoldError, about
from sfumato.agents.subjects.rows import OPEN, RequestRow, view
from sfumato.schemas.cloudevent import format_time
from sfumato.schemas.disclosure import Act
from sfumato.schemas.fault import Fault
from sfumato.schemas.subject_request import READ_AFTER, READ_BEFORE, SubjectRequest

WHO = "sfumato keys shred"
"""As the messages name it."""


class HoldError(Fault, RuntimeError):
    """Open subject requests name hours that were to be shredded, or it cannot be known whether any does; the text says
    which, and what to do."""


class Hold(NamedTuple):
    """An hour of a camera, and an open request that names it."""

    camera: str
    hour: datetime
    request: SubjectRequest

    def __str__(self) -> str:
        state, until = self.request.state, format_time(self.request.expires_at)
        return f"{self.camera}, {named(self.hour)}: subject request {self.request.id} is {state} until {until}"


class Holds:
    """Reads the database that the bridge keeps requests in. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None

    def look(self) -> list[Hold]:
        """As it is now. :class:`HoldError` where the database does not answer. No database: no bridge has run with
        these settings, so nobody has asked."""
        with _told():
            if self._database is None:
                if not self._settings.has_database:
                    return []
                self._database = Database(self._settings)
                self._database.migrate()
            wanted = select(RequestRow).where(RequestRow.state.in_(OPEN), RequestRow.expires_at > datetime.now(UTC))
            with self._database.read() as session:
                requests = [view(row, ()) for row in session.scalars(wanted.order_by(RequestRow.created_at))]
        return [Hold(request.camera, hour, request) for request in requests for hour in _hours(request)]

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def tell(settings: Settings, overridden: Collection[Hold]) -> None:
    """Record on ``disclosures`` that the keys are shredded although these requests are open, before they are.
    :class:`HoldError` where Kafka does not take it."""
    requests = {hold.request.id: hold.request for hold in overridden}
    told = Disclosures(settings, "sfumato-keys")
    try:
        for request in requests.values():
            hours = ", ".join(named(hold.hour) for hold in overridden if hold.request.id == request.id)
            told.tell(about(request, Act.SHREDDED, WHO, note=f"although this request was open: {hours}"))
    except UntoldError as error:
        raise HoldError(f"{error}; nothing was shredded") from None
    finally:
        told.close(0)


def refuse(held: Iterable[Hold]) -> None:
    """:class:`HoldError` where there are any."""
    if lines := [str(hold) for hold in held]:
        raise HoldError(
            "\n".join(lines) + "\nnothing was shredded; wait, have the requests refused or withdrawn, or shred "
            "--despite-requests, which is recorded"
        )


def _hours(request: SubjectRequest) -> Iterator[datetime]:
    """Those from which a clip is made."""
    hour = hour_of(request.since - timedelta(seconds=READ_BEFORE))
    while hour <= request.until + timedelta(seconds=READ_AFTER):
        yield hour
        hour += timedelta(hours=1)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of a driver, of a newer version's tables, of one request's row
        raise HoldError(
            f"SFUMATO_DATABASE_URL: whether a subject request needs the footage is not known ({type(error).__name__}); "
            "nothing was shredded"
        ) from None
