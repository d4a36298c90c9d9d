"""The job: files that are anonymized in the background, as the API takes it and shows it, and its Kafka messages.

``jobs`` carries that there is work, nothing of the job: what is to be done, and by whom, stands in the database.
``job.events`` carries how each job ended: the accounting of its files, no names, no pixels, no secrets.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, SecretStr, ValidationError, field_validator, model_validator

from sfumato.schemas.analysis import Analysis, FilmAnalysis
from sfumato.schemas.audit import Sha256, summary
from sfumato.schemas.cloudevent import CloudEvent, EnvelopeError
from sfumato.schemas.detection import Target
from sfumato.schemas.frame import Message
from sfumato.schemas.masking import MaskName
from sfumato.schemas.metadata import MetadataRecord
from sfumato.schemas.part import Part, Text
from sfumato.schemas.policy import CAMERAS, Policy
from sfumato.schemas.report import Account, Count, Kind

WORK_TYPE = "sfumato.job.v1"
EVENT_TYPE = "sfumato.job.ended.v1"
MOST_FILES = 1000
MOST_DESTINATIONS = 10
FILE_NAME = re.compile(r"""[^\x00-\x1f\x7f-\x9f/\\:*?"<>|.][^\x00-\x1f\x7f-\x9f/\\:*?"<>|]{0,199}""")
"""A name without a folder that every system takes, and that no header or shell takes for something else."""
JobId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Url = Annotated[str, Field(min_length=1, max_length=2000)]


class Step(StrEnum):
    """What is done, in this order; each step needs the one before it. ``analyze`` measures what a recogniser could
    still make of the masked faces. ``publish`` sends results to destinations."""

    ANONYMIZE = "anonymize"
    ANALYZE = "analyze"
    PUBLISH = "publish"


class JobState(StrEnum):
    """``failed``: a file or a delivery failed; what did not is there all the same. ``expired``: results are deleted."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def ended(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


class SourceFile(Part):
    """Either an ``upload`` of the caller's or a ``url`` to fetch. ``name``: of the result, without its ending; the
    upload's own name is not taken over, since it may tell who is in it."""

    upload: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] | None = None
    url: Url | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.upload is None) == (self.url is None):
            raise ValueError("name either an upload or a url")
        if self.name is not None and not FILE_NAME.fullmatch(self.name):
            raise ValueError('name: a file name without folders, up to 200 characters, none of / \\ : * ? " < > |')
        return self


class PolicyChoice(Part):
    """By ``name`` (a camera or pattern of ``/v1/policies``), ``inline``, or only ``targets`` and their ``mask``;
    nothing: faces and licence plates."""

    name: Annotated[str, Field(pattern=f"^{CAMERAS.pattern}$")] | None = None
    inline: Policy | None = None
    targets: tuple[Target, ...] | None = None
    mask: MaskName | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        simple = self.targets is not None or self.mask is not None
        if (self.name is not None) + (self.inline is not None) + simple > 1:
            raise ValueError("give one of name, inline, or targets and mask")
        if self.targets == ():
            raise ValueError("targets: name one at least")
        return self

    @property
    def named(self) -> bool:
        """Whether somebody answers for the policy, rather than targets and a mask alone."""
        return self.name is not None or self.inline is not None


class JobOptions(Part):
    """``quality``: of JPEG and WebP. ``crf``: of films, lower is better; null: as usual for the encoder.
    ``credentials``: results carry a signed statement of what was done (docs/credentials.md)."""

    keep_audio: bool = False
    every_frame: bool = False
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    crf: Annotated[int, Field(ge=0, le=63)] | None = None
    credentials: bool = True


class Download(Part):
    """Results wait to be fetched."""

    type: Literal["download"] = "download"


class Webhook(Part):
    """A POST to ``url`` when the job has ended, signed as Standard Webhooks say; ``secret``: ``whsec_`` and 24 to 64
    bytes in Base64; it is not shown again."""

    type: Literal["webhook"]
    url: Url
    secret: SecretStr

    @field_validator("secret")
    @classmethod
    def _strong(cls, secret: SecretStr) -> SecretStr:
        try:
            key = base64.b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
        except binascii.Error:
            key = b""
        if not (secret.get_secret_value().startswith("whsec_") and 24 <= len(key) <= 64):
            raise ValueError("wants whsec_ and 24 to 64 random bytes in Base64")
        return secret


class Bucket(Part):
    """Each result is put into an S3-compatible bucket as ``prefix`` and its name. The credentials are kept sealed while
    the job runs and are not shown again."""

    type: Literal["s3"]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]{0,99}/){0,8}$")] = ""
    endpoint: Url
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    access_key_id: SecretStr
    secret_access_key: SecretStr


Destination = Annotated[Download | Webhook | Bucket, Field(discriminator="type")]


class JobRequest(Part):
    files: Annotated[tuple[SourceFile, ...], Field(min_length=1, max_length=MOST_FILES)]
    policy: PolicyChoice = PolicyChoice()
    options: JobOptions = JobOptions()
    steps: tuple[Step, ...] = (Step.ANONYMIZE, Step.PUBLISH)
    destinations: Annotated[tuple[Destination, ...], Field(max_length=MOST_DESTINATIONS)] = (Download(),)
    purpose: Text

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if Step.ANONYMIZE not in self.steps or list(self.steps) != [step for step in Step if step in self.steps]:
            raise ValueError("steps: anonymize, and after it analyze and publish as wanted, each once, in this order")
        if Step.PUBLISH not in self.steps and any(each.type != "download" for each in self.destinations):
            raise ValueError("destinations: a webhook or bucket needs the step publish")
        uploads = [file.upload for file in self.files if file.upload]
        if len(set(uploads)) < len(uploads):
            raise ValueError("files: an upload is named twice; it is deleted once it is masked")
        names = [name.lower() for name in self.names()]
        if len(set(names)) < len(names):
            raise ValueError("files: two results would have the same name; give each its own")
        return self

    def names(self) -> tuple[str, ...]:
        """Of the results, without their endings."""
        return tuple(file.name or f"file-{number}" for number, file in enumerate(self.files))


class Result(Part):
    """A masked file. ``href``: where it is fetched. ``account``: what became of each picture. ``metadata``: by name
    what stayed and what was removed. ``credentials``: whether it carries a signed statement (C2PA). ``analysis``: of
    the step ``analyze``, with the residual of each face; ``film_analysis``: of a film's sample; ``no_residual``: why
    there is none."""

    href: str
    name: str
    content_type: str
    bytes: Count
    sha256: Sha256
    width: Count
    height: Count
    sound: bool
    account: Account
    metadata: MetadataRecord
    credentials: bool
    analysis: Analysis | None = None
    film_analysis: FilmAnalysis | None = None
    no_residual: str | None = None


class JobFile(Part):
    """``frames_done`` of ``frames_total`` pictures; null: not known yet. ``error`` and its ``remedy``: why there is no
    result. ``cut_short``: why the file ends before it says it would; what could be read is masked."""

    number: Count
    name: str
    state: JobState
    kind: Kind | None = None
    frames_done: Count = 0
    frames_total: Count | None = None
    bytes_before: Count | None = None
    sha256_before: Sha256 | None = None
    cut_short: str | None = None
    error: str | None = None
    remedy: str | None = None
    result: Result | None = None


class DeliveryState(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


class Delivery(Part):
    """To the job's ``destination`` of that number; ``file``: of a bucket. ``next_at``: when it is tried again."""

    destination: Count
    type: str
    file: Count | None = None
    state: DeliveryState
    attempts: Count
    next_at: AwareDatetime | None = None
    error: str | None = None


class Reached(Part):
    """A destination without its secrets."""

    type: str
    url: str | None = None
    bucket: str | None = None
    prefix: str | None = None
    endpoint: str | None = None


class PolicyUsed(Part):
    """``camera``: its name; ``files`` where it was made of targets and a mask alone."""

    camera: str
    version: int


class Job(Part):
    """``version`` rises with each change of the job, its progress included. ``expires_at``: when its results are
    deleted."""

    id: JobId
    state: JobState
    version: Count
    purpose: str
    policy: PolicyUsed
    options: JobOptions
    steps: tuple[Step, ...]
    destinations: tuple[Reached, ...]
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    ended_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    error: str | None = None
    files: tuple[JobFile, ...]
    deliveries: tuple[Delivery, ...] = ()


class FileProgress(Part):
    number: Count
    state: JobState
    frames_done: Count
    frames_total: Count | None = None


class Progress(Part):
    """How far a job is; ``version`` is also the id of the server-sent event."""

    id: JobId
    state: JobState
    version: Count
    files: tuple[FileProgress, ...]

    @classmethod
    def of(cls, job: Job) -> Progress:
        files = (
            FileProgress(number=f.number, state=f.state, frames_done=f.frames_done, frames_total=f.frames_total)
            for f in job.files
        )
        return cls(id=job.id, state=job.state, version=job.version, files=tuple(files))


class JobReport(Part):
    """What became of each file, for the records: no names and no pixels."""

    id: JobId
    state: JobState
    purpose: str
    policy: PolicyUsed
    ended_at: AwareDatetime | None
    frames: Count
    masked: Count
    fully_masked: Count
    dropped: Count
    files: tuple[JobFile, ...]

    @classmethod
    def of(cls, job: Job) -> JobReport:
        accounts = [file.result.account for file in job.files if file.result is not None]
        return cls(
            id=job.id,
            state=job.state,
            purpose=job.purpose,
            policy=job.policy,
            ended_at=job.ended_at,
            frames=sum(a.frames for a in accounts),
            masked=sum(a.masked for a in accounts),
            fully_masked=sum(a.fully_masked for a in accounts),
            dropped=sum(a.dropped for a in accounts),
            files=job.files,
        )


class Work(Part):
    """A message of ``jobs``: there is work. ``job``: whose, for those who watch; a worker takes what is next."""

    job: JobId

    def to_message(self, id: str) -> Message:
        event = CloudEvent(id, "/sfumato/jobs", WORK_TYPE, datetime.now(UTC), "application/json", {"job": self.job})
        return Message(self.job.encode(), self.model_dump_json().encode(), event.headers())


class FileEnded(Part):
    """One file of a job that ended; ``frames`` is what its container held."""

    number: Count
    state: JobState
    error: str | None = None
    bytes_before: Count | None = None
    sha256_before: Sha256 | None = None
    bytes_after: Count | None = None
    sha256_after: Sha256 | None = None
    account: Account | None = None


class JobEnded(Part):
    """A message of ``job.events``: how a job ended, who asked for it and what for. At least once: ``job``
    identifies."""

    job: JobId
    owner: str
    purpose: str
    state: JobState
    policy: PolicyUsed
    created_at: AwareDatetime
    ended_at: AwareDatetime
    files: tuple[FileEnded, ...]

    def to_message(self) -> Message:
        event = CloudEvent(self.job, "/sfumato/jobs", EVENT_TYPE, self.ended_at, "application/json", {"job": self.job})
        return Message(self.job.encode(), self.model_dump_json().encode(), event.headers())

    @classmethod
    def from_message(cls, key: bytes | None, value: bytes | None) -> JobEnded:
        """Read a message of ``job.events``; :class:`EnvelopeError` where it breaks the contract."""
        try:
            ended = cls.model_validate_json(value or b"")
        except ValidationError as error:
            raise EnvelopeError("value", summary(error)) from None
        if key != ended.job.encode():
            raise EnvelopeError("key", "differs from job")
        return ended
