"""What was published on ``ledger`` last: a second witness of how far the logs are, should their heads be gone."""

from __future__ import annotations

import re
from contextlib import closing

from sfumato.agents.ledger.bulk import Bounds, BulkReader
from sfumato.agents.ledger.entries import Place
from sfumato.agents.ledger.keys import Keys
from sfumato.agents.ledger.note import Checkpoint, NoteError
from sfumato.agents.settings import Settings
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.segment import Segment
from sfumato.schemas.topics import LEDGER

MOST = 2_000
"""Messages of ``ledger`` that are looked at, the newest."""
_SIZE = re.compile(rb"[^\n]*\n([0-9]{1,19})\n")


def newest_segments(settings: Settings, keys: Keys, most: int = MOST) -> list[Segment]:
    """The one that reaches farthest, of each log of this origin that the last ``most`` messages of ``ledger`` name;
    only what the ledger has signed counts. KafkaException or TimeoutError where the topic cannot be read."""
    place = Place(settings.topic(LEDGER), 0)
    with closing(Bounds(settings)) as bounds, closing(BulkReader(settings, place)) as reader:
        kept = bounds.kept(place)
        messages = reader.read(max(kept.start, kept.stop - most), most) if kept else []
    claimed: dict[bytes, list[tuple[int, bytes]]] = {}
    for message in messages:
        value = message.value() or b""
        if found := _SIZE.match(value):
            claimed.setdefault(message.key() or b"", []).append((int(found[1]), value))
    newest = (_farthest(settings, keys, values) for values in claimed.values())
    return [segment for segment in newest if segment is not None]


def _farthest(settings: Settings, keys: Keys, values: list[tuple[int, bytes]]) -> Segment | None:
    """Signatures cost more than sizes: the first one that holds is enough."""
    for _, value in sorted(values, reverse=True):
        try:
            checkpoint = Checkpoint.parse(keys.open(value.decode()))
            segment = Segment.parse(checkpoint.extensions[0])
        except (NoteError, EnvelopeError, UnicodeDecodeError, IndexError):
            continue
        if (checkpoint.origin, checkpoint.size) == (f"{settings.ledger_origin}/{segment.log}", segment.size):
            return segment
    return None
