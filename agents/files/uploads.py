"""Uploads: raw footage that arrives in pieces and waits, sealed, for the job that masks it.

An upload is a row with its wrapped key, and segments: rows with a length, each of which names the blob that holds it
sealed. A blob is written first and its row after it, so the offset, which is the sum of the rows, is what is on the
disk. Blobs without a row are orphans of a crash, of a lost race or of a deleted upload; the sweep deletes them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.rows import Segment, Upload
from sfumato.agents.files.sealing import DETAILS, KEY, MOST_SEGMENTS, SEGMENT, MasterKeys, Part, Seal, SealedReader
from sfumato.agents.settings import Settings
from sfumato.models import content
from sfumato.models.content import ContentError
from sfumato.models.watched import Watched

log = logging.getLogger(__name__)

PREFIX = "uploads"
"""Of the names of their blobs: ``uploads/ID/NUMBER-RANDOM``."""
ID = re.compile("[0-9a-f]{32}")
MOST_UPLOADS = 10_000
"""That one caller may have."""
SWEEP = 60.0
"""Seconds between two sweeps."""


class UploadError(Exception):
    """An upload cannot be used so; the text says why and what to do."""


class NoUploadError(UploadError):
    """There is none of this id, or it is another caller's, or it has expired."""


class ConflictError(UploadError):
    """Somebody else wrote to it in the meantime, or it is not at this offset; or it is not complete."""


class TooLargeError(UploadError):
    """More than the upload's length, SFUMATO_UPLOAD_MAX_BYTES or its segments allow."""


@dataclass(frozen=True, slots=True)
class State:
    """An upload as it is. ``offset``: bytes that have arrived for good. ``kind``: media type by content, once
    ``complete``. ``details``: what the caller said of it (``filename``, ``filetype``): sensitive, and not to be
    believed."""

    id: str
    owner: str
    length: int | None
    offset: int
    segments: int
    kind: str | None
    details: dict[str, str]
    created_at: datetime
    expires_at: datetime

    @property
    def complete(self) -> bool:
        return self.kind is not None


class Uploads:
    """The uploads in the database and their segments among the blobs. Thread-safe; for several processes at once."""

    def __init__(self, settings: Settings, database: Database, blobs: Blobs, keys: MasterKeys) -> None:
        self._settings = settings
        self._database = database
        self._blobs = blobs
        self._keys = keys

    def create(self, owner: str, length: int | None, details: dict[str, str] | None = None) -> State:
        """A new, empty upload; ``length`` None: to be said later. Raises :class:`TooLargeError`."""
        self._check_length(length)
        with self._database.begin() as session:
            self._check_share(session, owner, length or 1)
        id, key, now = secrets.token_hex(16), secrets.token_bytes(KEY), datetime.now(UTC)
        key_id, wrapped = self._keys.wrap(key, id)
        said = json.dumps(details or {}).encode()
        upload = Upload(
            id=id,
            owner=owner,
            length=length,
            key_id=key_id,
            wrapped_key=wrapped,
            details=Seal(key, id).close(DETAILS, said),
            details_length=len(said),
            kind=None,
            closing=None,
            created_at=now,
            expires_at=now + timedelta(seconds=self._settings.upload_expiry),
        )
        with self._database.begin() as session:
            session.add(upload)
        return State(id, owner, length, 0, 0, None, dict(details or {}), now, upload.expires_at)

    def get(self, id: str, owner: str | None = None) -> State:
        """``owner`` None: whoever's it is, for the machinery. Raises :class:`NoUploadError`."""
        with self._database.begin() as session:
            upload = self._find(session, id, owner)
            offset, segments = _arrived(session, id)
        details = self._seal(upload).open(DETAILS, upload.details_length, upload.details)
        return State(
            id,
            upload.owner,
            upload.length,
            offset,
            segments,
            upload.kind,
            json.loads(details),
            upload.created_at,
            upload.expires_at,
        )

    def set_length(self, id: str, length: int) -> None:
        """Say the length that was left open. Raises :class:`TooLargeError`, and :class:`ConflictError` where another
        was said or more has arrived."""
        self._check_length(length)
        with self._database.begin() as session:
            upload = self._find(session, id)
            arrived, _ = _arrived(session, id)
            if upload.length not in (None, length) or arrived > length:
                raise ConflictError("its length is another one; HEAD tells it")
            if upload.length is None:
                self._check_share(session, upload.owner, length - arrived)
            upload.length = length

    def writer(self, id: str, offset: int, *, at_end: bool = False) -> Writer:
        """Takes what comes next. ``at_end``: nothing counts before :meth:`Writer.finish`. Raises :class:`ConflictError`
        where the upload is not at this offset, or :class:`NoUploadError`."""
        with self._database.begin() as session:
            upload = self._find(session, id)
            arrived, segments = _arrived(session, id)
            left = self._settings.upload_caller_bytes - _held(session, upload.owner)
        if offset != arrived:
            raise ConflictError(f"Upload-Offset: wants {arrived}, where this upload is; HEAD tells it")
        room = (self._settings.upload_max_bytes if upload.length is None else upload.length) - arrived
        if upload.length is None:  # what is stated was counted when it was
            room = min(room, max(0, left))
        return Writer(self, id, self._seal(upload), segments, room, at_end)

    def complete(self, id: str) -> str:
        """The media type of an upload of which all has arrived, by its content; looked at when first asked.

        Raises :class:`ConflictError` where some is missing; :class:`ContentError` where it is nothing that can be
        masked: then it is deleted."""
        with self._database.begin() as session:
            upload = self._find(session, id)
            offset, segments = _arrived(session, id)
        if upload.kind is not None:
            return upload.kind
        if upload.length is None or offset < upload.length:
            raise ConflictError(
                f"upload {id} is not complete: {offset} of {upload.length or 'unknown'} bytes have arrived"
            )
        broken: list[BaseException] = []
        try:
            with Watched(self._read(upload), lambda: None, broken.append) as file:
                found = content.recognise(
                    file, offset, max_pixels=self._settings.max_pixels, max_seconds=self._settings.max_film_seconds
                )
        except ContentError:
            if broken:  # what could not be read is not what is not there
                raise broken[0] from None
            self.delete(id)
            raise
        if broken:
            raise broken[0]
        with self._database.begin() as session:
            upload = self._find(session, id)
            upload.kind = found.kind
            upload.closing = self._seal(upload).finish(segments, offset)
        return found.kind

    def open(self, id: str) -> SealedReader:
        """The bytes of a complete upload as a seekable file that is never on the disk. Raises :class:`ConflictError`
        where it is not complete, NoUploadError, or SealError where it was tampered with."""
        with self._database.begin() as session:
            upload = self._find(session, id)
            offset, segments = _arrived(session, id)
        if upload.closing is None:
            raise ConflictError(f"upload {id} is not complete")
        self._seal(upload).check(upload.closing, segments, offset)
        return self._read(upload)

    def keep(self, id: str, until: datetime) -> None:
        """Let it expire then instead; a job keeps what it still reads."""
        with self._database.begin() as session:
            self._find(session, id).expires_at = until

    def delete(self, id: str) -> None:
        """Its key first, without which the rest is noise; one that is not there is no error."""
        with self._database.begin() as session:
            self.forget(session, id)
        self._shred(id)

    def forget(self, session: Session, id: str) -> None:
        """Delete its key with the caller's transaction. The rest is an orphan then: the sweep deletes it, or
        :meth:`delete` now."""
        session.execute(delete(Upload).where(Upload.id == id))

    def _shred(self, id: str) -> None:
        self._blobs.delete(*(blob.name for blob in self._blobs.list(f"{PREFIX}/{id}")))

    def sweep(self, now: datetime | None = None) -> None:
        """Delete what has expired, and orphans. Several processes may sweep at once."""
        now = now or datetime.now(UTC)
        with self._database.begin() as session:
            expired = list(session.scalars(select(Upload.id).where(Upload.expires_at <= now)))
        for id in expired:
            with self._database.begin() as session:  # a job may have kept it in the meantime
                session.execute(delete(Upload).where(Upload.id == id, Upload.expires_at <= now))
                gone = session.get(Upload, id) is None
            if gone:
                self._shred(id)
        if expired:
            log.info("uploads: %d expired", len(expired))
        self._database.scrub()
        self._blobs.sweep()
        for upload, blobs in self._by_upload():
            with self._database.begin() as session:
                row = session.get(Upload, upload)
                growing = row is not None and row.closing is None
                rows = {
                    row.number: row.blob for row in session.scalars(select(Segment).where(Segment.upload == upload))
                }
            # A number that has no row yet may get this one: a body with a checksum counts only at its end.
            for name in blobs:
                number = int(name.rpartition("/")[2].partition("-")[0])
                if rows.get(number) != name and (not growing or number in rows):
                    self._blobs.delete(name)

    def _by_upload(self) -> Iterator[tuple[str, list[str]]]:
        found: dict[str, list[str]] = {}
        for blob in self._blobs.list(PREFIX):
            if (name := re.fullmatch(rf"{PREFIX}/({ID.pattern})/\d+-[0-9a-f]+", blob.name)) is not None:
                found.setdefault(name[1], []).append(blob.name)
        yield from found.items()

    def _find(self, session: Session, id: str, owner: str | None = None) -> Upload:
        upload = session.get(Upload, id) if ID.fullmatch(id) else None
        if upload is None or owner not in (None, upload.owner) or upload.expires_at <= datetime.now(UTC):
            raise NoUploadError("no such upload of yours; it may have expired or have been deleted")
        return upload

    def _seal(self, upload: Upload) -> Seal:
        return Seal(self._keys.unwrap(upload.key_id, upload.wrapped_key, upload.id), upload.id)

    def _read(self, upload: Upload) -> SealedReader:
        wanted = select(Segment).where(Segment.upload == upload.id).order_by(Segment.number)
        with self._database.begin() as session:
            parts = [Part(row.length, row.blob) for row in session.scalars(wanted)]
        return SealedReader(self._seal(upload), parts, self._blobs.get)

    def _check_length(self, length: int | None) -> None:
        if length is not None and length > self._settings.upload_max_bytes:
            raise TooLargeError(
                f"Upload-Length: at most {self._settings.upload_max_bytes} bytes; SFUMATO_UPLOAD_MAX_BYTES allows more"
            )

    def _check_share(self, session: Session, owner: str, more: int) -> None:
        """Whether a caller may have so many bytes more."""
        if _held(session, owner) + more > self._settings.upload_caller_bytes:
            raise TooLargeError(
                f"all your uploads may hold {self._settings.upload_caller_bytes} bytes (SFUMATO_UPLOAD_CALLER_BYTES); "
                "delete some, or wait for their jobs"
            )
        if (session.scalar(select(func.count()).where(Upload.owner == owner)) or 0) >= MOST_UPLOADS:
            raise TooLargeError(f"you have {MOST_UPLOADS} uploads; delete some, or wait for their jobs")


class Writer:
    """Takes the bytes that follow an upload's offset, and keeps them segment by segment. One thread at a time."""

    def __init__(self, uploads: Uploads, id: str, seal: Seal, segments: int, room: int, at_end: bool) -> None:
        self._uploads = uploads
        self._id = id
        self._seal = seal
        self._next = segments
        self.room = room
        """Bytes that may still come."""
        self._at_end = at_end
        self._waiting: list[Segment] = []
        self._buffer = bytearray()
        self.written = 0
        """Bytes that count."""

    @property
    def full(self) -> bool:
        """Whether :meth:`flush` should come before more is taken."""
        return len(self._buffer) >= SEGMENT

    def take(self, data: bytes) -> None:
        """Only in memory, so quick. Raises :class:`TooLargeError`: more than the upload's length."""
        if len(data) > self.room:
            raise TooLargeError("more bytes than Upload-Length, SFUMATO_UPLOAD_MAX_BYTES or _CALLER_BYTES allows")
        self.room -= len(data)
        self._buffer += data

    def flush(self, *, all: bool = False) -> None:
        """Keep full segments, or all there is. Raises :class:`ConflictError` where another writer was first,
        NoUploadError where the upload is gone, :class:`TooLargeError` where it has too many segments."""
        while len(self._buffer) >= SEGMENT or (all and self._buffer):
            self._keep(memoryview(self._buffer)[:SEGMENT])
            del self._buffer[:SEGMENT]
        if not self._at_end:
            self._commit()

    def finish(self) -> None:
        """Keep the rest."""
        self.flush(all=True)
        self._commit()

    def discard(self) -> None:
        """Forget what does not count yet."""
        self._buffer.clear()
        self._uploads._blobs.delete(*(segment.blob for segment in self._waiting))
        self._waiting.clear()

    def _keep(self, data: memoryview) -> None:
        if self._next >= MOST_SEGMENTS:
            raise TooLargeError(f"more than {MOST_SEGMENTS} segments: send larger pieces, of {SEGMENT} bytes at least")
        length = len(data)
        name = f"{PREFIX}/{self._id}/{self._next}-{secrets.token_hex(8)}"
        self._uploads._blobs.put(name, self._seal.close(self._next, data))
        data.release()
        self._waiting.append(Segment(upload=self._id, number=self._next, length=length, blob=name))
        self._next += 1

    def _commit(self) -> None:
        if not self._waiting:
            return
        try:
            with self._uploads._database.begin() as session:
                self._uploads._find(session, self._id)
                session.add_all(self._waiting)
        except (IntegrityError, NoUploadError) as error:
            self.discard()
            if isinstance(error, NoUploadError):
                raise
            raise ConflictError("another request wrote to this upload; HEAD tells where it is") from None
        self.written += sum(segment.length for segment in self._waiting)
        self._waiting.clear()


def _arrived(session: Session, id: str) -> tuple[int, int]:
    """Bytes and segments of an upload."""
    wanted = select(func.coalesce(func.sum(Segment.length), 0), func.count()).where(Segment.upload == id)
    offset, segments = session.execute(wanted).one()
    return int(offset), int(segments)


def _held(session: Session, owner: str) -> int:
    """Bytes of a caller's uploads: what each is said to hold, or where that was left open what has arrived."""
    stated = select(func.coalesce(func.sum(Upload.length), 0)).where(Upload.owner == owner)
    arrived = select(func.coalesce(func.sum(Segment.length), 0)).join(Upload, Upload.id == Segment.upload)
    arrived = arrived.where(Upload.owner == owner, Upload.length.is_(None))
    return int(session.scalar(stated) or 0) + int(session.scalar(arrived) or 0)


async def sweep_regularly(uploads: Uploads) -> None:
    """Sweep now, and from then on; whatever fails is tried again."""
    while True:
        try:
            await asyncio.to_thread(uploads.sweep)
        except Exception as error:  # noqa: BLE001 - the store or the database may be away for a while
            log.error("uploads: the sweep failed: %s", type(error).__name__)
        await asyncio.sleep(SWEEP)


def fill(uploads: Uploads, id: str, chunks: Iterable[bytes]) -> None:
    """Write all of a source into an empty upload and say its length. Raises what :class:`Writer` does."""
    writer, total = uploads.writer(id, 0), 0
    for chunk in chunks:
        writer.take(chunk)
        total += len(chunk)
        if writer.full:
            writer.flush()
    writer.finish()
    uploads.set_length(id, total)
