"""Films that show the marker, handed to the bridge as jobs, and what comes out of them counted."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Self

import av
import httpx

from drills import load, marker
from drills.site import DrillError, Site

FPS = 25.0
LENGTH = 400
"""Pictures."""
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Masked:
    """What became of films: pictures that went in, those of them that did not come out, and those that show the
    marker."""

    frames: int = 0
    lost: int = 0
    leaked: int = 0

    def add(self, result: bytes, length: int = LENGTH) -> None:
        """What came of one film of so many pictures."""
        with av.open(io.BytesIO(result)) as container:
            shown = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
        self.frames += length
        self.lost += abs(length - len(shown))
        self.leaked += sum(map(marker.shows, shown))


class Films:
    """A context manager; the bridge has to be ready."""

    def __init__(self, site: Site) -> None:
        self.masked = Masked()
        self._site = site
        path = site.folder / "film.mp4"
        load.film(path, islice(cycle(load.pictures()), LENGTH), FPS)
        self._film = path.read_bytes()
        headers = {"Authorization": f"Bearer {site.stack.key}"}
        self._client = httpx.Client(base_url=site.stack.bridge_url, headers=headers, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def hand_in(self) -> str:
        """The id of a new job that masks the film's faces."""
        upload = self._ask(
            "POST",
            "/v1/uploads",
            content=self._film,
            headers={
                "Tus-Resumable": "1.0.0",
                "Upload-Length": str(len(self._film)),
                "Content-Type": "application/offset+octet-stream",
            },
        )
        wanted = {
            "files": [{"upload": upload.headers["location"].rpartition("/")[2]}],
            "policy": {"targets": ["face"]},
            "purpose": "drill",
            "options": {"every_frame": True},
        }
        return str(self._ask("POST", "/v1/jobs", json=wanted).json()["id"])

    def await_progress(self, job: str, more_than: int = 0) -> int:
        """Until so many of its pictures are done; returns how many. :class:`DrillError` where it has ended before."""
        done = 0

        def goes_on() -> bool:
            nonlocal done
            found = self._job(job)
            done = found["files"][0]["frames_done"]
            if done <= more_than and found["state"] in ENDED:
                raise DrillError(f"the job has ended: {found}")
            return done > more_than

        self._site.wait(goes_on, "the job does not go on")
        return done

    def collect(self, job: str) -> None:
        """Until it has ended; then its result is counted."""
        self._site.wait(lambda: self._job(job)["state"] in ENDED, "the job has not ended")
        ended = self._job(job)
        if ended["state"] != "succeeded":
            raise DrillError(f"the job did not succeed: {ended}")
        result = ended["files"][0]["result"]
        if (counted := result["account"]["masked"]) != LENGTH:
            raise DrillError(f"the account says {counted} pictures were masked, not {LENGTH}")
        self.masked.add(self._ask("GET", result["href"]).content)

    def status(self, path: str) -> int:
        """Of whatever the bridge answers."""
        return self._client.get(path).status_code

    def _job(self, id: str) -> Any:
        return self._ask("GET", f"/v1/jobs/{id}").json()

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = self._client.request(method, path, **more)
        if answer.is_error:
            raise DrillError(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer
