"""The worker of subject requests: polls the database for what was approved, makes the clip, ends what is over its time.

A worker that is killed loses its lease; the next one deletes what it left and begins anew. A clip is in memory until it
is whole, then sealed among the uploads, and counts from the transaction that makes the request ready.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import av
from av.error import FFmpegError
from confluent_kafka import KafkaException
from sqlalchemy.exc import SQLAlchemyError

from sfumato.agents import metrics
from sfumato.agents.files.uploads import Uploads, fill
from sfumato.agents.footage.reveal import FootageGoneError, Window, source
from sfumato.agents.footage.stores import KeyStoreError
from sfumato.agents.mp4 import Film, Timeline
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.disclosures import UntoldError
from sfumato.agents.subjects.requests import LEASE, Claim, LostError, Requests
from sfumato.models.ensemble import Ensemble
from sfumato.models.reveal import Painted, Reveal, State, Wanted
from sfumato.models.subject import SubjectError
from sfumato.models.task import NoPolicy
from sfumato.schemas.cloudevent import FrameId
from sfumato.schemas.policy import Policy
from sfumato.schemas.subject_request import Clip, SubjectState

log = logging.getLogger(__name__)

OWNER = "subject-request:"
"""In front of a request's id: whose the sealed clip is among the uploads. No caller of the API has such a name."""
POLLED = 1.0
"""Seconds between two looks for work."""
MEDIA_TYPE = "video/mp4"
CHUNK = 1024 * 1024
AWAY = (KafkaException, KeyStoreError, SQLAlchemyError, OSError, TimeoutError, UntoldError)
"""What may mend itself: the request is tried again when its lease has run out."""

PolicyOf = Callable[[str, datetime], Policy | NoPolicy]
"""The policy in force for a camera and a moment of capture."""


class Stopped(Exception):
    """The worker ends; another one makes the clip."""


class Clerk:
    """Makes one clip after the other; :meth:`step` is called by one thread at a time."""

    def __init__(
        self, settings: Settings, requests: Requests, uploads: Uploads, ensemble: Ensemble, policy_of: PolicyOf
    ) -> None:
        self.stopping = threading.Event()
        self._settings = settings
        self._requests = requests
        self._uploads = uploads
        self._ensemble = ensemble
        self._policy_of = policy_of
        self._unreleased: Claim | None = None
        self._worker = f"{socket.gethostname()[:60]}/{os.getpid()}/{secrets.token_hex(4)}"

    def run(self) -> None:
        """Until ``stopping``; what goes wrong is logged and tried again."""
        while not self.stopping.is_set():
            try:
                self._requests.expire()
                for state, count in self._requests.counts().items():
                    metrics.SUBJECT_REQUESTS.labels(state).set(count)
                worked = self.step()
            except AWAY as error:
                log.warning("subject requests wait: %s", type(error).__name__)
                worked = False
            if not worked:
                self.stopping.wait(POLLED)

    def step(self) -> bool:
        """Make the next clip; False where there is none to make. Raises what the database does."""
        self._release()
        claim = self._requests.claim(self._worker)
        if claim is None:
            return False
        log.info("subject request %s: attempt %d", claim.request.id, claim.attempt)
        try:
            metrics.REVEALED.labels(self._do(claim)).inc()
        except LostError as error:
            metrics.REVEALED.labels("lost").inc()
            log.warning("subject request %s: %s", claim.request.id, error)
        except (Stopped, *AWAY) as error:
            metrics.REVEALED.labels("put_off").inc()
            log.warning("subject request %s is tried again: %s", claim.request.id, type(error).__name__)
            self._unreleased = claim
            self._release()
        return True

    def _release(self) -> None:
        """What is to be tried again; asked for again where the database did not answer, or an attempt would count."""
        if self._unreleased is not None:
            with suppress(LostError):
                self._requests.release(self._unreleased)
            self._unreleased = None

    def _do(self, claim: Claim) -> SubjectState:
        """What the request then is."""
        if claim.upload is not None:
            self._uploads.delete(claim.upload)
        try:
            film, clip = self._film(claim)
            self._keep(claim, film, clip)
            return SubjectState.READY
        except (SubjectError, FFmpegError) as error:
            self._requests.fail(claim, str(error) if isinstance(error, SubjectError) else "the clip was not encoded")
        except FootageGoneError as error:
            self._requests.fail(claim, str(error), error.at)
            return SubjectState.GONE
        except (LostError, Stopped, *AWAY):
            raise
        except Exception as error:  # noqa: BLE001 - of one request; its text may hold anything
            log.error("subject request %s failed: %s", claim.request.id, type(error).__name__)
            self._requests.fail(claim, f"failed: {type(error).__name__}; see the log of sfumato reveal")
        return SubjectState.FAILED

    def _film(self, claim: Claim) -> tuple[bytes, Clip]:
        """The masked clip as an MP4 file, and what is told of it."""
        request = claim.request
        policy_at = partial(self._policy_of, request.camera)
        policy = policy_at(request.captured_at)
        if isinstance(policy, NoPolicy):
            raise SubjectError(f"camera: no policy gives the right to look ({policy.reason})")
        frame = FrameId(request.camera, request.epoch, request.sequence)
        box = (request.box.left, request.box.top, request.box.right, request.box.bottom)
        wanted = Wanted(request.kind, frame, box, request.since, request.until, policy, policy_at)
        settings = self._settings
        reveal = Reveal(self._ensemble, wanted, settings.max_pixels, settings.batch_size, Keeping(self, claim).tick)
        counts, target = Counts(), io.BytesIO()
        with (
            Window(settings, frame, claim.origin, request.since, request.until) as window,
            Film(target) as film,
        ):
            timeline = Timeline()
            for painted in reveal.pictures(source(window, policy)):
                film.add(av.VideoFrame.from_ndarray(painted.image, format="bgr24"), timeline.place(painted.frame))
                counts.enter(painted)
            film.finish()
            width, height = film.size
        made = target.getvalue()
        return made, Clip(
            href=f"/v1/subject-requests/{request.id}/content",
            content_type=MEDIA_TYPE,
            bytes=len(made),
            sha256=hashlib.sha256(made).hexdigest(),
            width=width,
            height=height,
            frames=counts.states.total(),
            shown=counts.states[State.SHOWN],
            doubtful=counts.states[State.DOUBTFUL],
            grey=counts.states[State.GREY],
            undecodable=reveal.undecodable,
            reasons=dict(counts.reasons),
        )

    def _keep(self, claim: Claim, film: bytes, clip: Clip) -> None:
        upload = self._uploads.create(f"{OWNER}{claim.request.id}", None).id
        try:
            self._requests.adopt(claim, upload)
            fill(self._uploads, upload, (film[at : at + CHUNK] for at in range(0, len(film), CHUNK)))
            self._uploads.complete(upload)
            self._uploads.keep(upload, claim.request.expires_at)
        except BaseException:
            self._uploads.delete(upload)
            raise
        try:
            self._requests.made(claim, clip)
        except LostError:
            self._uploads.delete(upload)
            raise  # of other errors the clip may be ready all the same; if not, the next attempt deletes it
        log.info("subject request %s is ready: %d pictures", claim.request.id, clip.frames)


class Counts:
    """What became of the pictures."""

    def __init__(self) -> None:
        self.states: Counter[State] = Counter()
        self.reasons: Counter[str] = Counter()

    def enter(self, painted: Painted) -> None:
        self.states[painted.state] += 1
        if painted.reason is not None:
            self.reasons[painted.reason] += 1


class Keeping:
    """Keeps the lease while work goes on."""

    def __init__(self, clerk: Clerk, claim: Claim) -> None:
        self._clerk = clerk
        self._claim = claim
        self._renewed = time.monotonic()

    def tick(self) -> None:
        """Raises LostError or :class:`Stopped` where the work should not go on."""
        if self._clerk.stopping.is_set():
            raise Stopped
        if time.monotonic() - self._renewed > LEASE / 4:
            self._clerk._requests.renew(self._claim)
            self._renewed = time.monotonic()


def sweep_regularly(uploads: Uploads, stopping: threading.Event, every: float) -> None:
    """Delete what expired, clips of requests among it, also where the worker that made them was killed."""
    while not stopping.wait(every):
        try:
            uploads.sweep(datetime.now(UTC))
        except Exception as error:  # noqa: BLE001 - the store or the database may be away for a while
            log.error("uploads: the sweep failed: %s", type(error).__name__)
