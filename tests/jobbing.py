"""Jobs without Kafka: a database, uploads, and an archivist that finds red squares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.agents.archive import Archivist
from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.files.uploads import Uploads, fill
from sfumato.agents.jobs.claims import Claims
from sfumato.agents.jobs.hidden import seal
from sfumato.agents.jobs.housekeeping import Housekeeping
from sfumato.agents.jobs.records import Jobs
from sfumato.agents.jobs.sweep import Sweeper
from sfumato.agents.settings import Settings
from sfumato.models import images
from sfumato.models.ensemble import Ensemble
from sfumato.schemas.job import Job, JobRequest
from tests import films
from tests.films import scene, write

OWNER = "key:test"
FRAMES = 100
"""Of a film: two parts."""


class Unheard:
    """An announcer and producer in one, of which nobody hears."""

    def __init__(self) -> None:
        self.announced: list[str] = []
        self.sent: list[Any] = []

    def announce(self, job: str) -> None:
        self.announced.append(job)

    def try_send(self, topic: Any, message: Any, on_delivery: Any, partition: int = -1) -> bool:
        self.sent.append((topic, message))
        on_delivery(None)
        return True


@dataclass
class Workshop:
    settings: Settings
    database: Database
    blobs: Blobs
    uploads: Uploads
    keys: MasterKeys

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.settings, self.database)
        self.claims = Claims(self.settings, self.database)
        self.housekeeping = Housekeeping(self.settings, self.database)
        self.unheard = Unheard()
        self.sweeper = Sweeper(
            self.settings,
            self.database,
            self.uploads,
            self.blobs,
            self.unheard,  # type: ignore[arg-type]
            self.unheard,  # type: ignore[arg-type]
        )

    def upload(self, data: bytes) -> str:
        id = self.uploads.create(OWNER, None).id
        fill(self.uploads, id, [data])
        return id

    def create(self, *sources: Path | bytes, policy: Any = None, **wanted: Any) -> Job:
        contents = (source.read_bytes() if isinstance(source, Path) else source for source in sources)
        files = wanted.pop("files", None) or [{"upload": self.upload(data)} for data in contents]
        choice = {} if policy is None else {"inline": policy}
        request = JobRequest.model_validate({"files": files, "policy": choice, "purpose": "tests", **wanted})
        return self.jobs.create(
            OWNER, request, policy or films.policy(), lambda job, secrets: seal(self.keys, job, secrets)
        )

    def archivist(self, ensemble: Ensemble | None = None) -> Archivist:
        return Archivist(
            self.settings, self.database, self.uploads, self.blobs, self.keys, ensemble or films.ensemble()
        )

    def work(self, ensemble: Ensemble | None = None) -> None:
        """Until nothing is left to do."""
        archivist = self.archivist(ensemble)
        while archivist.step():
            pass
        archivist.usage.close()

    def fetch(self, job: Job, number: int = 0) -> bytes:
        return self.blobs.get(self.jobs.result(job.id, number)[1])

    def keep(self, job: Job, number: int, path: Path) -> Path:
        """The result as a file."""
        path.write_bytes(self.fetch(job, number))
        return path

    def names(self, prefix: str = "jobs") -> Sequence[str]:
        return sorted(blob.name for blob in self.blobs.list(prefix))


@contextmanager
def workshop(folder: Path, **changes: Any) -> Iterator[Workshop]:
    settings = Settings(**{"state_dir": folder / "state", "archive_part_seconds": 2.0, "archive_lease": 5.0, **changes})
    database = Database(settings)
    database.migrate()
    blobs, keys = Blobs(settings), MasterKeys(settings)
    yield Workshop(settings, database, blobs, Uploads(settings, database, blobs, keys), keys)
    database.close()


def film(folder: Path, name: str = "a.mp4", count: int = FRAMES, **keys: object) -> Path:
    return write(folder / name, [scene(n) for n in range(count)], options={"g": "20"}, **keys)


def picture(number: int = 0) -> bytes:
    return images.encode(scene(number), 95)
