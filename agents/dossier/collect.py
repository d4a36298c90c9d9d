"""Read the facts of a dossier from the running system: topics, database, weights, settings. Never a raw frame, and no
secret: of keys, names and scopes; of URLs, hosts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from confluent_kafka import KafkaException
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from sfumato.agents import policies, provision, suspensions
from sfumato.agents.access.keys import Key, Keys
from sfumato.agents.database import Database
from sfumato.agents.dossier import frames, measures
from sfumato.agents.dossier.facts import Absent, Facts, Finds, Frames, Weight
from sfumato.agents.dossier.topics import Standing, describe
from sfumato.agents.follow import Follower
from sfumato.agents.ledger.note import VerifierKey
from sfumato.agents.policies import Register
from sfumato.agents.policy_files import read_floor
from sfumato.agents.settings import Settings
from sfumato.models import detectors
from sfumato.models.weights import WEIGHTS, WeightError, locate
from sfumato.schemas.audit import summary
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.drills import Drills
from sfumato.schemas.epoch import EpochRecord
from sfumato.schemas.fault import Fault
from sfumato.schemas.find import Find
from sfumato.schemas.suspension import Suspension
from sfumato.schemas.topics import AUDIT, DISCLOSURES, EPOCHS, FINDS, LEDGER, POLICIES, SUSPENSIONS, Topic

T = TypeVar("T")


class DrillsError(Fault, ValueError):
    """The file of the drills' results cannot be read; the text names it."""


def collect(
    settings: Settings,
    at: datetime,
    span: timedelta,
    ledger_keys: Sequence[VerifierKey] = (),
    drills: Path | None = None,
) -> Facts:
    """Everything; what cannot be read is :class:`Absent` with the reason. ``span``: how far back is counted.
    :class:`~sfumato.agents.provision.TopicError` where no broker answers, :class:`DrillsError` where that file is not
    what it should be."""
    since = at - span
    results = read_drills(drills)
    topics = describe(settings)
    reading = _Reading(settings, topics, since, at)
    heard = reading.epochs()
    return Facts(
        at=at,
        since=since,
        version=version("sfumato"),
        servers=settings.bootstrap_servers,
        topics=topics,
        designed={topic: _designed(settings, topic) for topic in topics},
        policies=reading.policies(),
        floor=attempt(lambda: read_floor(settings)),
        cameras=heard if isinstance(heard, Absent) else heard[0],
        ingest_dropped=heard if isinstance(heard, Absent) else heard[1],
        frames=reading.frames(ledger_keys),
        finds=reading.finds(),
        suspensions=reading.suspensions(),
        disclosures=reading.disclosures(),
        weights=tuple(_weights(settings)),
        measures=tuple(measures.taken(settings, topics)),
        limits=tuple(measures.limits(settings)),
        keys=_keys(settings),
        drills=results,
    )


def attempt(question: Callable[[], T]) -> T | Absent:
    """The answer, or why there is none."""
    try:
        return question()
    except KafkaException as error:
        return Absent(error.args[0].str())
    except (Fault, TimeoutError) as error:
        return Absent(str(error))
    except SQLAlchemyError as error:  # its text may hold the database's URL
        return Absent(f"the database cannot be read ({type(error).__name__})")


def read_drills(path: Path | None) -> Drills | Absent:
    """What a file holds: one JSON object, or lines of which the last is one. Raises :class:`DrillsError`."""
    if path is None:
        return Absent("no file of results was given (--drills)")
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
        text = "\n".join(lines)
        try:
            json.loads(text)
        except ValueError:
            text = lines[-1] if lines else ""
        return Drills.model_validate_json(text)
    except ValidationError as error:
        problem = summary(error)
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        problem = "not UTF-8"
    raise DrillsError(f"{path}: {problem}; wants the last line of `make drills`")


class _Reading:
    """Reads topics of one cluster over one span."""

    def __init__(
        self, settings: Settings, topics: dict[Topic, Standing | None], since: datetime, until: datetime
    ) -> None:
        self._settings, self._topics, self._since, self._until = settings, topics, since, until

    def policies(self) -> Register | Absent:
        return self._read(POLICIES, lambda: policies.load(self._settings, read_floor(self._settings)))

    def suspensions(self) -> tuple[Suspension, ...] | Absent:
        return self._read(SUSPENSIONS, lambda: tuple(suspensions.read(self._settings).history))

    def frames(self, keys: Sequence[VerifierKey]) -> Frames | Absent:
        """From the ledger where it has anything to say, else from the audit."""
        sealed = self._read(LEDGER, lambda: frames.from_ledger(self._settings, self._since, keys))
        if not isinstance(sealed, Absent):
            return sealed
        return self._read(AUDIT, lambda: frames.from_audit(self._settings, self._since, self._until))

    def epochs(self) -> tuple[tuple[str, ...], dict[str, int]] | Absent:
        """The cameras that were heard of, and what ingestors dropped of those epochs, by reason."""
        newest: dict[tuple[str, int], EpochRecord] = {}

        def take(_: bytes | None, value: bytes | None) -> None:
            record = EpochRecord.from_message(value)
            newest[record.camera, record.epoch] = record

        def result() -> tuple[tuple[str, ...], dict[str, int]]:
            self._follow(EPOCHS, take)
            dropped: Counter[str] = Counter()
            for record in newest.values():
                dropped.update({reason.value: number for reason, number in record.dropped.items()})
            return tuple(sorted({camera for camera, _ in newest})), dict(sorted(dropped.items()))

        return self._read(EPOCHS, result)

    def finds(self) -> Finds | Absent:
        seen: set[str] = set()
        counts: Counter[tuple[str, str]] = Counter()

        def take(key: bytes | None, value: bytes | None) -> None:
            find = Find.from_message(key, value)
            if find.id not in seen:
                seen.add(find.id)
                counts[find.camera, find.target.value] += 1

        def result() -> Finds:
            unreadable = self._follow(FINDS, take)
            return Finds(dict(sorted(counts.items())), unreadable)

        return self._read(FINDS, result)

    def disclosures(self) -> int | Absent:
        """How many events of requests by data subjects."""
        taken: list[None] = []

        def result() -> int:
            self._follow(DISCLOSURES, lambda key, value: taken.append(None))
            return len(taken)

        return self._read(DISCLOSURES, result)

    def _read(self, topic: Topic, question: Callable[[], T | Absent]) -> T | Absent:
        if self._topics[topic] is None:
            return Absent(f"the topic {topic.name} is missing")
        return attempt(question)

    def _follow(self, topic: Topic, take: Callable[[bytes | None, bytes | None], None]) -> int:
        """Read a topic of one partition over the span; how many of its messages break their contract."""
        unreadable: list[None] = []

        def guarded(key: bytes | None, value: bytes | None, at: datetime) -> None:
            try:
                take(key, value)
            except EnvelopeError:
                unreadable.append(None)

        follower = Follower(self._settings, topic, guarded, since=self._since)
        try:
            follower.load()
        finally:
            follower.close()
        return len(unreadable)


def _designed(settings: Settings, topic: Topic) -> int:
    return int(provision.config(settings, topic).get("retention.ms", -1))


def _weights(settings: Settings) -> list[Weight]:
    rows = [("masking", name) for name in settings.detector_names()]
    rows += [("the second look", name) for name in settings.inspector_names()]
    found = []
    for used_for, detector in rows:
        for name in detectors.needs(detector):
            weight = WEIGHTS[name]
            try:
                present = bool(locate(name, settings.weights_dir))
            except WeightError:
                present = False
            found.append(Weight(detector, used_for, name, weight.sha256, weight.licence, weight.source, present))
    return found


def _keys(settings: Settings) -> tuple[Key, ...] | Absent:
    if not settings.has_database:
        return Absent("there is no database in SFUMATO_STATE_DIR: no bridge has run with these settings")

    def read() -> tuple[Key, ...]:
        database = Database(settings)
        try:
            return tuple(Keys(database).list())
        finally:
            database.close()

    return attempt(read)
