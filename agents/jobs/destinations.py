"""Where results go: a registry of kinds of destinations, and the courier that makes deliveries.

A delivery is a row of the database, so its attempts and pauses outlive a restart. All calls go through
:mod:`sfumato.agents.files.outbound`, which checks every address when it connects. Delivery is at least once: a webhook
carries the same ``webhook-id`` each time, an object in a bucket has the same name and content.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import obstore
from obstore.store import S3Store
from sqlalchemy.exc import SQLAlchemyError

from sfumato.agents.files.blobs import BlobError, Blobs
from sfumato.agents.files.outbound import FailedError, Outbound, OutboundError, RefusedError, body
from sfumato.agents.files.sealing import MasterKeys, SealError
from sfumato.agents.jobs.claims import Claims, Errand, LostError
from sfumato.agents.jobs.hidden import unseal
from sfumato.agents.jobs.records import Jobs, NoJobError
from sfumato.schemas.job import Bucket, Destination, Job, Webhook

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for a webhook to answer."""
MOST_ANSWERED = 64 * 1024
"""Bytes of an answer that are read, and thrown away."""
PUT_SECONDS = 3600.0
MOST_PUT = 5 * 1024**3
"""Bytes of an object that S3 takes in one request."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is to be delivered: ``place`` and ``secrets`` of the destination, the job as the API shows it, and for a
    bucket the file. ``check`` is called while it goes on, and raises where it should not."""

    errand: Errand
    place: Mapping[str, Any]
    secrets: Mapping[str, str]
    job: Job
    blobs: Blobs
    check: Callable[[], None]


class Kind(Protocol):
    def check(self, outbound: Outbound, wanted: Destination, seconds: float) -> None:
        """When the job is handed in; ``seconds``: for its name. Raises OutboundError."""

    def deliver(self, outbound: Outbound, parcel: Parcel) -> None:
        """Raises OutboundError: RefusedError where another attempt would be of no use."""


class Downloads:
    """Results wait at their href; there is nothing to do."""

    def check(self, outbound: Outbound, wanted: Destination, seconds: float) -> None:
        return

    def deliver(self, outbound: Outbound, parcel: Parcel) -> None:
        return


class Webhooks:
    """As https://www.standardwebhooks.com says: HMAC-SHA256 over id, time and body."""

    def check(self, outbound: Outbound, wanted: Destination, seconds: float) -> None:
        if isinstance(wanted, Webhook):
            outbound.check(wanted.url, seconds)

    def deliver(self, outbound: Outbound, parcel: Parcel) -> None:
        at = datetime.now(UTC)
        told = {
            "type": f"job.{parcel.job.state}",
            "timestamp": at.isoformat(),
            "data": parcel.job.model_dump(mode="json"),
        }
        payload = json.dumps(told).encode()
        id = f"{parcel.errand.job}-{parcel.errand.destination}"
        headers = {"Content-Type": "application/json", **sign(parcel.secrets["secret"], id, int(time.time()), payload)}
        url = parcel.place["url"]
        with outbound.stream("POST", url, headers=headers, content=payload, seconds=PATIENCE) as response:
            if response.status_code == 410:
                raise RefusedError("it answers with status 410: it is gone")
            _demand_success(response)


class Buckets:
    """obstore signs, and the request goes the checked way."""

    def check(self, outbound: Outbound, wanted: Destination, seconds: float) -> None:
        if isinstance(wanted, Bucket):
            outbound.check(wanted.endpoint, seconds)

    def deliver(self, outbound: Outbound, parcel: Parcel) -> None:
        result, blob = parcel.errand.result, parcel.errand.blob
        if result is None or blob is None:
            raise RefusedError("there is no such result")
        if result.bytes > MOST_PUT:
            raise RefusedError(f"a result of {result.bytes} bytes; S3 takes {MOST_PUT} in one request: download it")
        url = signed(parcel.place, parcel.secrets, f"{parcel.place.get('prefix', '')}{result.name}")
        headers = {"Content-Type": result.content_type, "Content-Length": str(result.bytes)}
        content = _seen(parcel.blobs.read(blob), parcel.check)
        with outbound.stream("PUT", url, headers=headers, content=content, seconds=PUT_SECONDS) as response:
            _demand_success(response)


DESTINATIONS: dict[str, Kind] = {"download": Downloads(), "webhook": Webhooks(), "s3": Buckets()}


def sign(secret: str, id: str, at: int, payload: bytes) -> dict[str, str]:
    """The headers of a Standard Webhook: ``secret`` as ``whsec_…``, ``at`` in seconds since 1970."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{id}.{at}.".encode() + payload, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signature}


def signed(place: Mapping[str, Any], secrets: Mapping[str, str], name: str) -> str:
    """The URL by which an object may be put for an hour."""
    plain = str(place["endpoint"]).startswith("http://")

    def credentials() -> dict[str, Any]:
        """The caller's alone: obstore would mix in those of this process's environment."""
        return {
            "access_key_id": secrets["access_key_id"],
            "secret_access_key": secrets["secret_access_key"],
            "token": None,
            "expires_at": None,
        }

    store = S3Store(
        place["bucket"],
        endpoint=place["endpoint"],
        region=place["region"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": plain},
        credential_provider=credentials,  # type: ignore[arg-type]
    )
    return obstore.sign(store, "PUT", name, timedelta(seconds=PUT_SECONDS))


class Courier:
    """Makes deliveries; used by one thread at a time."""

    def __init__(self, claims: Claims, jobs: Jobs, blobs: Blobs, keys: MasterKeys, outbound: Outbound) -> None:
        self._claims = claims
        self._jobs = jobs
        self._blobs = blobs
        self._keys = keys
        self._outbound = outbound

    def run(self, errand: Errand, check: Callable[[], None]) -> None:
        """One attempt. Raises what the database raises."""
        try:
            self._run(errand, check)
            self._claims.delivered(errand)
        except (LostError, NoJobError):
            return
        except (OutboundError, BlobError, SealError) as error:
            self._fail(errand, str(error), final=isinstance(error, RefusedError))
        except FileNotFoundError:
            self._fail(errand, "the result has expired", final=True)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - its text may hold a signed URL; others are delivered all the same
            self._fail(errand, f"failed: {type(error).__name__}", final=False)

    def _run(self, errand: Errand, check: Callable[[], None]) -> None:
        if errand.sealed is None:
            raise RefusedError("its secrets are gone")
        secrets = unseal(self._keys, errand.job, errand.sealed)["destinations"][errand.destination]
        parcel = Parcel(errand, errand.place, secrets, self._jobs.get(errand.job), self._blobs, check)
        DESTINATIONS[errand.place["type"]].deliver(self._outbound, parcel)

    def _fail(self, errand: Errand, error: str, *, final: bool) -> None:
        log.warning("job %s, destination %d: %s", errand.job, errand.destination, error)
        try:
            self._claims.undelivered(errand, error, final=final)
        except LostError:
            return


def _demand_success(response: Any) -> None:
    if not 200 <= response.status_code < 300:
        raise FailedError(f"it answers with status {response.status_code}")
    for _ in body(response, MOST_ANSWERED):
        pass


def _seen(chunks: Iterator[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for chunk in chunks:
        check()
        yield chunk
