"""Where results go: webhooks as a stranger's library verifies them, and a real S3 service."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import S3Store
from sqlalchemy import select, update
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from sfumato.agents.jobs.claims import Errand
from sfumato.agents.jobs.destinations import DESTINATIONS, signed
from sfumato.agents.jobs.records import NoJobError
from sfumato.agents.jobs.rows import DeliveryRow, JobRow
from sfumato.models import images
from sfumato.schemas.job import JobRequest, JobState
from tests.films import scene
from tests.jobbing import Workshop, workshop
from tests.object_store import object_store

SECRET = "whsec_" + "c2Z1bWF0byBzZWNyZXQgZm9yIHRoZSB0ZXN0cw=="
CANARY = "CANARY-secret-key-5f1e"


class Receiver:
    """A web server that keeps what it is sent and answers with the statuses it is given, then with 204."""

    def __init__(self, *statuses: int) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        left = list(statuses)
        got, called = self.got, self.called

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                called()
                self.send_response(left.pop(0) if left else 204)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?token={CANARY}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def called(self) -> None:
        """Before it answers."""

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    with workshop(tmp_path, outbound_allow=["127.0.0.1"], outbound_http=True, delivery_attempts=3) as made:
        yield made


def picture() -> bytes:
    return images.encode(scene(0), 90)


def hook(receiver: Receiver) -> dict[str, Any]:
    return {"type": "webhook", "url": receiver.url, "secret": SECRET}


def due(shop: Workshop) -> None:
    """The pause before the next attempt is over."""
    with shop.database.begin() as session:
        session.execute(update(DeliveryRow).values(not_before=datetime.now(UTC) - timedelta(seconds=1)))


def test_a_webhook_tells_of_the_end_and_is_verified_by_another_library(shop: Workshop) -> None:
    receiver = Receiver()
    job = shop.create(picture(), destinations=[hook(receiver)])
    shop.work()
    ((headers, body),) = receiver.got
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "job.succeeded"
    assert told["data"]["id"] == job.id
    assert told["data"]["files"][0]["result"]["href"].endswith("/content")
    assert SECRET.encode() not in body
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"succeeded", b"succeedee"), headers)
    (delivery,) = shop.jobs.get(job.id).deliveries
    assert (delivery.state, delivery.attempts, delivery.next_at) == ("delivered", 1, None)
    shop.sweeper.sweep()
    with shop.database.begin() as session:
        assert session.get_one(JobRow, job.id).sealed is None
    receiver.close()


def test_a_job_that_is_deleted_while_its_webhook_is_called_ends_no_worker(shop: Workshop) -> None:
    class Deleting(Receiver):
        def called(self) -> None:
            shop.sweeper.clear(job.id, shop.jobs.uploads(job.id), set())
            shop.jobs.delete(job.id)

    receiver = Deleting()
    job = shop.create(picture(), destinations=[hook(receiver)])
    shop.work()
    assert len(receiver.got) == 1
    with pytest.raises(NoJobError):
        shop.jobs.get(job.id)
    receiver.close()


def test_a_destination_that_libraries_choke_on_fails_alone(shop: Workshop) -> None:
    place = {"type": "s3", "bucket": "results", "endpoint": "https://127.0.0.1:99999"}  # the desk would refuse it
    job = shop.create(picture(), destinations=[{**place, "access_key_id": "a", "secret_access_key": CANARY}])
    for _ in range(3):
        shop.work()
        due(shop)
    done = shop.jobs.get(job.id)
    assert done.state is JobState.FAILED
    assert [(each.state, each.attempts) for each in done.deliveries] == [("failed", 3)]
    assert CANARY not in done.model_dump_json()


def test_a_delivery_that_ends_its_workers_is_given_up(shop: Workshop) -> None:
    receiver = Receiver()
    job = shop.create(picture(), destinations=[hook(receiver)])
    shop.archivist().step()  # the picture
    for attempt in range(3):
        errand = shop.claims.next(f"dies {attempt}")
        assert isinstance(errand, Errand)
        with shop.database.begin() as session:
            session.execute(update(DeliveryRow).values(leased_until=datetime.now(UTC) - timedelta(seconds=1)))
    assert shop.claims.next("another") is None
    (delivery,) = shop.jobs.get(job.id).deliveries
    assert (delivery.state, delivery.attempts) == ("failed", 3)
    receiver.close()


def test_attempts_outlive_a_restart_and_the_same_id_is_sent(shop: Workshop) -> None:
    receiver = Receiver(500, 302)
    job = shop.create(picture(), destinations=[hook(receiver)])
    shop.work()
    (delivery,) = shop.jobs.get(job.id).deliveries
    assert (delivery.state, delivery.attempts, delivery.error) == ("waiting", 1, "it answers with status 500")
    assert delivery.next_at is not None
    assert delivery.next_at > datetime.now(UTC)
    shop.work()
    assert len(receiver.got) == 1  # not before its time
    shop.sweeper.sweep()  # clears the job; what is still to be delivered keeps its secret
    due(shop)
    shop.work()
    (delivery,) = shop.jobs.get(job.id).deliveries
    assert (delivery.state, delivery.attempts) == ("failed", 2)  # a redirect is final
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    receiver.close()


def test_a_receiver_that_never_answers_well_is_given_up_and_said_so(shop: Workshop) -> None:
    receiver = Receiver(500, 503, 404, 500)
    job = shop.create(picture(), destinations=[hook(receiver)])
    pauses = []
    for _ in range(5):
        shop.work()
        (delivery,) = shop.jobs.get(job.id).deliveries
        if delivery.next_at is not None:
            pauses.append((delivery.next_at - datetime.now(UTC)).total_seconds())
        due(shop)
    assert (delivery.state, delivery.attempts, delivery.error) == ("failed", 3, "it answers with status 404")
    assert pauses[0] <= 5 < pauses[1] <= 10
    assert len(receiver.got) == 3
    assert shop.jobs.get(job.id).state is JobState.SUCCEEDED
    receiver.close()


def test_results_are_put_into_a_bucket_and_credentials_stay_sealed(
    shop: Workshop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-this-process")
    with object_store("results") as url:
        place = {"type": "s3", "bucket": "results", "endpoint": url, "prefix": "out/"}
        place |= {"access_key_id": "caller", "secret_access_key": CANARY}
        job = shop.create(picture(), picture(), destinations=[place])
        for path in shop.settings.state_dir.rglob("*"):
            assert not path.is_file() or CANARY.encode() not in path.read_bytes()
        shop.work()
        done = shop.jobs.get(job.id)
        assert done.state is JobState.SUCCEEDED, done
        assert [(each.file, each.state) for each in done.deliveries] == [(0, "delivered"), (1, "delivered")]
        for number in (0, 1):
            store = S3Store(
                "results",
                endpoint=url,
                access_key_id="x",
                secret_access_key="x",
                region="us-east-1",
                client_options={"allow_http": True},
            )
            found = obstore.get(store, f"out/file-{number}.jpg")
            assert bytes(found.bytes()) == shop.fetch(job, number)
            assert found.attributes["Content-Type"] == "image/jpeg"
        assert CANARY not in done.model_dump_json() + caplog.text
        assert "of-this-process" not in signed({**place, "region": "us-east-1"}, place, "x")


def test_a_bucket_that_is_not_there_fails_the_job_and_the_results_can_be_fetched(shop: Workshop) -> None:
    with object_store("results") as url:
        place = {"type": "s3", "bucket": "nowhere", "endpoint": url, "access_key_id": "a", "secret_access_key": CANARY}
        job = shop.create(picture(), destinations=[place])
        for _ in range(3):
            assert shop.jobs.get(job.id).state in (JobState.QUEUED, JobState.RUNNING)
            shop.work()
            due(shop)
    done = shop.jobs.get(job.id)
    assert (done.state, done.error) == (JobState.FAILED, "1 of 1 deliveries failed")
    assert done.deliveries[0].error == "it answers with status 404"
    assert shop.fetch(job)


def test_private_addresses_are_no_destinations(tmp_path: Path) -> None:
    """When it is handed in, and again when it is called."""
    receiver = Receiver()
    with workshop(tmp_path, outbound_http=True) as shop:
        job = shop.create(picture(), destinations=[hook(receiver)])
        shop.work()
        (delivery,) = shop.jobs.get(job.id).deliveries
    assert (delivery.state, receiver.got) == ("failed", [])
    assert "private network" in (delivery.error or "")
    receiver.close()


def test_nothing_is_delivered_without_the_step_publish(shop: Workshop) -> None:
    job = shop.create(picture(), steps=["anonymize"])
    shop.work()
    with shop.database.begin() as session:
        assert session.scalars(select(DeliveryRow)).all() == []
    assert shop.jobs.get(job.id).state is JobState.SUCCEEDED


def test_every_kind_of_destination_is_in_the_registry() -> None:
    schema = JobRequest.model_json_schema()["properties"]["destinations"]["items"]["discriminator"]["mapping"]
    assert set(schema) == set(DESTINATIONS)
    assert json.dumps(schema)
