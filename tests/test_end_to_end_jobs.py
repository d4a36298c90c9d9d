"""Jobs as their users meet them, on both brokers: handed in, watched, killed, cancelled, fetched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from clips import clip
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from httpx_sse import connect_sse
from sqlalchemy import select
from stack import Stack, demonstration_policy
from websockets.sync.client import connect

from sfumato.agents.fetch import fetch_weights
from sfumato.agents.jobs.rows import PartRow
from sfumato.schemas.job import JobEnded
from sfumato.schemas.scope import Scope
from sfumato.schemas.topics import JOB_EVENTS
from tests import films
from tests.calling import bearer, secret
from tests.conftest import Broker
from tests.test_bridge import Bridge

FACE = {"targets": ["face"]}


@pytest.fixture(scope="module")
def api(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A bridge and two workers, with parts of two seconds."""
    changes = {"archive_part_seconds": 2.0, "archive_lease": 2.0, "job_resend": 1.0, "detectors": "centerface,clp"}
    folder = tmp_path_factory.mktemp("jobs")
    with Stack(broker.bootstrap_servers, folder, partitions=2, **changes) as stack:
        list(fetch_weights(stack.settings))
        stack.start("archive", "--workers", "2")
        with Bridge(stack.settings) as bridge:
            bridge.wait_until(lambda: bridge.app.state.standing.ready)
            yield Api(stack, bridge)


class Api:
    def __init__(self, stack: Stack, bridge: Bridge) -> None:
        self.stack = stack
        self.bridge = bridge
        self.uploads: list[str] = []
        self.client = httpx.Client(base_url=f"http://{bridge.address}", timeout=30, headers=bearer(bridge.key))

    def upload(self, data: bytes) -> str:
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Length": str(len(data)),
            "Content-Type": "application/offset+octet-stream",
        }
        answer = self.client.post("/v1/uploads", content=data, headers=headers)
        assert answer.status_code == 201, answer.text
        self.uploads.append(answer.headers["location"].rpartition("/")[2])
        return self.uploads[-1]

    def create(self, *files: bytes, **wanted: Any) -> dict[str, Any]:
        body = {
            "files": [{"upload": self.upload(data)} for data in files],
            "policy": FACE,
            "purpose": "tests",
            **wanted,
        }
        answer = self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
        return answer.json()

    def get(self, job: dict[str, Any]) -> dict[str, Any]:
        return self.client.get(f"/v1/jobs/{job['id']}").json()

    def wait(self, job: dict[str, Any], condition: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """Until the condition holds, by default until it has ended."""
        found: dict[str, Any] = {}

        def holds() -> bool:
            nonlocal found
            self.stack.check()
            found = self.get(job)
            return condition(found) if condition else found["state"] not in ("queued", "running")

        self.bridge.wait_until(holds, timeout=90)
        return found


def speaker(folder: Path, seconds: int, name: str = "a.mp4", **keys: Any) -> bytes:
    """A man's face in every picture, a keyframe each second."""
    with av.open(str(clip("carphone"))) as container:
        faces = [frame.to_ndarray(format="bgr24") for frame in islice(container.decode(video=0), 50)]
    return films.write(folder / name, islice(cycle(faces), seconds * 25), options={"g": "25"}, **keys).read_bytes()


def times(data: bytes, path: Path) -> list[Fraction]:
    path.write_bytes(data)
    return films.times(path)


def test_files_go_in_and_come_out_masked(api: Api, pictures: list[bytes], tmp_path: Path) -> None:
    mp4 = speaker(tmp_path, 5, adorn=films.tone)
    webm, noise = speaker(tmp_path, 1, "b.webm"), bytearray(speaker(tmp_path, 1, "c.mp4"))
    place = noise.index(b"mdat") + 600
    noise[place : len(noise) // 2] = np.random.default_rng(1).bytes(len(noise) // 2 - place)
    body = {
        "files": [{"upload": api.upload(bytes(data))} for data in (mp4, webm, noise, pictures[0])],
        "policy": FACE,
        "purpose": "tests",
        "options": {"keep_audio": True, "every_frame": True},
    }
    body["files"][0]["name"] = "Zug & Straße"  # type: ignore[index]
    first = api.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"})
    again = api.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "once"})
    assert (first.status_code, again.status_code, again.json()["id"]) == (202, 202, first.json()["id"])
    job = first.json()

    url = f"ws://{api.bridge.address}/v1/jobs/{job['id']}/progress"
    with connect(url, additional_headers=bearer(api.bridge.key)) as socket:
        seen = [json.loads(message) for message in socket]
    done = api.wait(job)
    assert [seen[0]["state"] in ("queued", "running"), seen[-1]["state"]] == [True, done["state"]]
    assert any(0 < each["files"][0]["frames_done"] < 125 for each in seen)
    with connect_sse(api.client, "GET", f"/v1/jobs/{job['id']}/events") as source:
        events = list(source.iter_sse())
    assert [(event.event, json.loads(event.data)["state"]) for event in events] == [("ended", done["state"])]
    last = api.client.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": str(done["version"])})
    assert last.status_code == 204

    good = [file for file in done["files"] if file["number"] != 2]
    assert [file["state"] for file in good] == ["succeeded"] * 3, done
    for file in good[:2]:
        source_data = (mp4, webm)[file["number"]]
        answer = api.client.get(file["result"]["href"])
        assert answer.headers["etag"] == f'"{file["result"]["sha256"]}"'
        before = times(source_data, tmp_path / f"before{file['number']}.mkv")
        assert times(answer.content, tmp_path / f"after{file['number']}.mkv") == before
        account = file["result"]["account"]
        assert (account["frames"], file["frames_total"]) == (len(before), len(before))
        assert account["boxes"]["face"] >= len(before) * 0.9
    path = good[0]["result"]["href"]
    disposition = api.client.head(path).headers["content-disposition"]
    assert "filename*=UTF-8''Zug%20%26%20Stra%C3%9Fe.mp4" in disposition
    whole = api.client.get(path).content
    pieces = [api.client.get(path, headers={"Range": f"bytes={s}"}) for s in ("0-99", "100-", "-5")]
    assert [piece.status_code for piece in pieces] == [206] * 3
    assert pieces[0].content + pieces[1].content == whole
    assert pieces[2].content == whole[-5:]
    assert api.client.get(path, headers={"Range": "bytes=999999999-"}).status_code == 416
    assert (
        api.client.get(path, headers={"If-None-Match": good[0] and api.client.head(path).headers["etag"]}).status_code
        == 304
    )
    other = bearer(secret(api.stack.settings))
    for hidden in (path, f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/report"):
        assert api.client.get(hidden, headers=other).status_code == 404
    told = read_event(api.stack, job["id"])
    assert (told.state, len(told.files)) == (done["state"], 4)
    assert api.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert [api.client.get(p).status_code for p in (path, f"/v1/jobs/{job['id']}")] == [404, 404]
    assert blobs(api, job) == []


def test_a_worker_killed_in_a_film_is_replaced_and_nothing_is_half(api: Api, tmp_path: Path) -> None:
    data = speaker(tmp_path, 5)
    job = api.create(data, options={"every_frame": True})
    api.wait(job, lambda found: found["files"][0]["frames_done"] > 20)
    os.killpg(api.stack.pid("archive"), signal.SIGKILL)
    api.stack._processes.pop("archive").wait()
    half, upload = api.get(job), api.uploads[-1]
    assert sealed(api, upload)
    assert half["state"] == "running"
    assert half["files"][0]["result"] is None
    assert api.client.get(f"/v1/jobs/{job['id']}/files/0/content").status_code == 404
    api.stack.start("archive", "--workers", "2")
    done = api.wait(job)
    assert done["state"] == "succeeded", done
    file = done["files"][0]
    answer = api.client.get(file["result"]["href"])
    assert times(answer.content, tmp_path / "after.mp4") == times(data, tmp_path / "before.mp4")
    assert file["result"]["account"]["frames"] == 5 * 25
    api.bridge.wait_until(lambda: len(blobs(api, job)) == 1)
    api.bridge.wait_until(lambda: not sealed(api, upload))


def test_two_workers_share_a_film_and_a_cancelled_job_frees_them(api: Api, tmp_path: Path) -> None:
    job, workers = api.create(speaker(tmp_path, 8), options={"every_frame": True}), set()

    def shared(found: dict[str, Any]) -> bool:
        with api.bridge.app.state.database.begin() as session:
            workers.update(session.scalars(select(PartRow.worker).where(PartRow.worker.is_not(None))))
        return len(workers) == 2 or found["state"] not in ("queued", "running")

    api.wait(job, shared)
    assert len(workers) == 2
    answer = api.client.post(f"/v1/jobs/{job['id']}:cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert api.client.post(f"/v1/jobs/{job['id']}:cancel").status_code == 200  # again is no error
    next_job = api.create(speaker(tmp_path, 1))
    assert api.wait(next_job)["state"] == "succeeded"
    api.bridge.wait_until(lambda: blobs(api, job) == [])
    assert len(blobs(api, next_job)) == 1


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_job_whose_announcement_was_lost_is_done(
    api: Api, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bridge was killed between the row and the message."""
    lost: list[str] = []
    monkeypatch.setattr(api.bridge.app.state.desk, "announce", lost.append)
    job = api.create(pictures[0])
    assert lost == [job["id"]]
    assert api.wait(job)["state"] == "succeeded"


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_policy_is_used_by_name_by_those_whose_cameras_it_is_for(api: Api, pictures: list[bytes]) -> None:
    api.stack.publish(demonstration_policy("north"))
    upload = api.upload(pictures[0])
    body = {"files": [{"upload": upload}], "policy": {"name": "north"}, "purpose": "tests"}
    answers: list[httpx.Response] = []

    def known() -> bool:
        answers.append(api.client.post("/v1/jobs", json=body))
        return answers[-1].status_code == 202

    api.bridge.wait_until(known)
    job = answers[-1].json()
    assert job["policy"] == {"camera": "north", "version": 1}
    assert api.wait(job)["files"][0]["result"]["account"]["boxes"] == {"face": 1}
    stranger = Api(api.stack, api.bridge)
    stranger.client.headers.update(bearer(secret(api.stack.settings, cameras=["south"])))
    body["files"] = [{"upload": stranger.upload(pictures[0])}]
    refused = stranger.client.post("/v1/jobs", json=body)
    assert (refused.status_code, "policy: no policy in force" in refused.text) == (422, True)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_what_cannot_be_taken_names_the_field(api: Api, pictures: list[bytes]) -> None:
    upload = api.upload(pictures[0])
    night = films.policy().model_dump(mode="json", exclude_none=True)
    night["schedules"] = [{"name": "night", "from": "22:00", "to": "06:00", "full_mask": True}]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"files": []}, "files"),
        ({"files": [{"upload": "0" * 32}]}, "files.0.upload"),
        ({"files": [{"url": "http://127.0.0.1/a.mp4"}]}, "files.0.url"),
        ({"files": [{"upload": upload}, {"upload": upload}]}, "twice"),
        ({"steps": ["publish"]}, "steps"),
        ({"policy": {"name": "nobody"}}, "policy: no policy in force"),
        ({"policy": {"inline": night}}, "schedules"),
        ({"policy": {"targets": ["soul"]}}, "targets"),
        (
            {"destinations": [{"type": "webhook", "url": "https://127.0.0.1/", "secret": "whsec_" + "A" * 32}]},
            "destinations.0",
        ),
        ({"destinations": [{"type": "webhook", "url": "https://example.org/", "secret": "short"}]}, "whsec_"),
        ({"destinations": [{"type": "pigeon"}]}, "destinations"),
        ({"files": [{"upload": upload, "name": "../x"}]}, "name"),
    ]
    for change, named in cases:
        body = {"files": [{"upload": upload}], "policy": FACE, "purpose": "tests", **change}
        answer = api.client.post("/v1/jobs", json=body)
        assert answer.status_code == 422, (change, answer.text)
        assert named in answer.text, (change, answer.text)
        assert "short" not in answer.text
    few = bearer(secret(api.stack.settings, Scope.JOBS_WRITE))
    body = {"files": [{"upload": upload}], "steps": ["anonymize", "analyze"], "purpose": "tests"}
    refused = api.client.post("/v1/jobs", json=body, headers=few)
    assert (refused.status_code, "analyses:create" in refused.text) == (403, True)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_the_curl_lines_of_the_documentation_mask_a_film(api: Api, tmp_path: Path) -> None:
    (tmp_path / "curl").mkdir()
    speaker(tmp_path, 1, "in.mp4")
    key = secret(api.stack.settings)
    (lines,) = re.findall(r"```sh\n(.*?)```", (Path(__file__).parents[1] / "docs" / "jobs.md").read_text(), re.DOTALL)
    environment = {"KEY": key, "BRIDGE": f"http://{api.bridge.address}", "FILE": str(tmp_path / "in.mp4")}
    done = subprocess.run(
        ["bash", "-euc", lines],
        env={**os.environ, **environment},
        cwd=tmp_path / "curl",
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "event: ended" in done.stdout
    assert '"masked":25' in done.stdout
    assert len(films.times(tmp_path / "curl" / "market.mp4")) == 25
    assert api.client.get("/v1/jobs", headers=bearer(key)).json()["items"] == []


def blobs(api: Api, job: dict[str, Any]) -> list[str]:
    return [blob.name for blob in api.bridge.app.state.desk.blobs.list(f"jobs/{job['id']}")]


def sealed(api: Api, upload: str) -> list[str]:
    """What is left of the raw footage."""
    return [blob.name for blob in api.bridge.app.state.desk.blobs.list(f"uploads/{upload}")]


def read_event(stack: Stack, job: str) -> JobEnded:
    servers = stack.settings.bootstrap_servers
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False})
    topic = stack.settings.topic(JOB_EVENTS)
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])
    try:
        for _ in range(60):
            message = consumer.poll(1.0)
            if message is not None and message.error() is None and message.key() == job.encode():
                return JobEnded.from_message(message.key(), message.value())
        raise AssertionError("no event came")
    finally:
        consumer.close()
