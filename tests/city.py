"""A city on the secured broker: each process under the principal of its role, and the work that each is there for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner
from confluent_kafka import Producer
from sqlalchemy import select
from stack import Stack

from sfumato.agents.broker import free_port
from sfumato.agents.cli import main
from sfumato.agents.connection import client_config
from sfumato.agents.database import Database
from sfumato.agents.footage import stores
from sfumato.agents.footage.stores import named
from sfumato.agents.settings import Settings
from sfumato.agents.subjects.rows import RequestRow
from sfumato.schemas.subject_request import SubjectState
from sfumato.schemas.topics import FRAMES_ANONYMIZED
from tests.calling import bearer, secret
from tests.secured_kafka import ADMIN, SecuredKafka
from tests.test_end_to_end_inspect import leak

TIMEOUT = 120.0
FOR_CLIPS = "centerface,ssdlite,clp,ppocr"
"""What `sfumato reveal` wants: a detector for each target."""


class City(Stack):
    """The processes, each as the principal of its role, on the secured broker."""

    def __init__(self, kafka: SecuredKafka, folder: Path) -> None:
        self.kafka = kafka
        self.ports: dict[str, int] = {}
        given = {"partitions": 2, "bridge_port": 0, "detectors": "centerface", "subject_approvals": 1}
        super().__init__(kafka.bootstrap_servers, folder, **kafka.given(ADMIN), **given)
        self.shares = folder / "shares.toml"

    def credentials(self, role: str, **more: Any) -> dict[str, Any]:
        return self.kafka.given(f"sfumato-{role}") | more

    def role(self, role: str) -> Settings:
        return self.settings.model_copy(update=self.credentials(role))

    def vendor(self, name: str) -> Settings:
        return self.settings.model_copy(update=self.kafka.given(f"vendor-{name}"))

    def run(self, verb: str, *arguments: str, **overrides: Any) -> None:
        """Start ``sfumato VERB`` as its role."""
        self.ports[verb] = free_port()
        self.start(verb, *arguments, **{"metrics_port": self.ports[verb], **self.credentials(verb), **overrides})

    def command(self, role: str, *arguments: str) -> Any:
        """``sfumato …`` as the principal of a role, or the administrator."""
        settings = self.settings if role == ADMIN else self.role(role)
        given = settings.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
        environment = {f"SFUMATO_{name.upper()}": text for name, text in texts.items()}
        return CliRunner(env=environment).invoke(main, arguments)

    def does(self, role: str, *arguments: str) -> str:
        """As :meth:`command`, which succeeds; what it prints."""
        done = self.command(role, *arguments)
        assert done.exit_code == 0, (role, arguments, done.output, done.exception)
        return str(done.stdout)

    def api(self) -> httpx.Client:
        """A caller of the bridge who may do everything; each call is another one."""
        return httpx.Client(base_url=self.bridge_url, timeout=30, headers=bearer(secret(self.settings)))

    def until(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives, once it is true; every process goes on meanwhile."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := condition()):
            self.check("ingest")
            assert time.monotonic() < deadline, {verb: self.tail(verb) for verb in self.verbs}
            time.sleep(0.05)
        return found

    def metric_of(self, verb: str, name: str) -> float:
        return self.metric(name, self.ports[verb])

    # what the roles are there for

    def mask_a_picture(self, picture: bytes) -> None:
        """A job: the bridge announces it, the archive masks the picture."""
        with self.api() as api:
            place = self._hand_in(api, picture)
            ended = self.until(lambda: (found := api.get(place).json())["state"] == "succeeded" and found)
            assert ended["files"][0]["result"]

    def cancel_a_job(self, picture: bytes) -> None:
        """Which the bridge tells of by itself."""
        with self.api() as api:
            place = self._hand_in(api, picture)
            assert api.post(f"{place}:cancel").is_success
            assert api.delete(place).is_success

    def _hand_in(self, api: httpx.Client, picture: bytes) -> str:
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(len(picture))}
        offset = {"Content-Type": "application/offset+octet-stream"}
        upload = api.post("/v1/uploads", content=picture, headers=headers | offset).headers["location"]
        files = [{"upload": upload.rpartition("/")[2]}]
        body = {"files": files, "policy": {"targets": ["face"]}, "purpose": "tests"}
        return str(api.post("/v1/jobs", json=body).headers["location"])

    def reveal_a_person(self, camera: str) -> dict[str, Any]:
        """A subject request: asked for by one, approved by another, made, fetched; as it then is."""
        with self.api() as asks, self.api() as approves:
            event = asks.get(f"/v1/audit?camera={camera}").json()["items"][0]
            left, top, right, bottom = event["detections"][0]["box"]
            captured = datetime.fromisoformat(event["captured_at"])
            draft = {
                **{name: event[name] for name in ("camera", "epoch", "sequence", "captured_at")},
                "kind": "access",
                "point": {"x": (left + right) / 2, "y": (top + bottom) / 2},
                "since": (captured - timedelta(seconds=1)).isoformat(),
                "until": (captured + timedelta(milliseconds=1)).isoformat(),
                "reason": "Article 15",
                "case": "1",
            }
            place = "/v1/subject-requests/" + asks.post("/v1/subject-requests", json=draft).json()["id"]
            approved = approves.post(f"{place}/approvals", json={"verdict": "approve", "note": "seen"})
            assert approved.status_code == 200, approved.text
            ended = self.until(lambda: (now := asks.get(place).json())["state"] != SubjectState.APPROVED and now)
            assert ended["state"] == SubjectState.READY, ended
            assert asks.get(f"{place}/content").status_code == 200
            return dict(ended)

    def shred_despite_requests(self, camera: str) -> None:
        """Keys of two hours ago, which a request names that waits for approval."""
        hour = stores.hour_of(datetime.now(UTC) - timedelta(hours=2))
        stores.make(self.settings).make(camera, hour)
        database = Database(self.settings)
        with database.begin() as session:
            found = session.scalars(select(RequestRow)).first()
            fields = {column.name: getattr(found, column.name) for column in RequestRow.__table__.columns}
            draft = {
                **fields["draft"],
                "captured_at": hour.isoformat(),
                "since": hour.isoformat(),
                "until": (hour + timedelta(minutes=1)).isoformat(),
            }
            session.add(RequestRow(**{**fields, "id": "f" * 32, "state": "pending", "upload": None, "draft": draft}))
        database.close()
        words = ("keys", "shred", "--camera", camera, "--before", (hour + timedelta(hours=1)).isoformat(), "--yes")
        assert self.command("key-shredder", *words).exit_code == 1
        assert named(hour) in self.does("key-shredder", *words, "--despite-requests")

    def suspend_a_camera(self, camera: str, picture: bytes) -> None:
        """A face that nobody masked lies on the topic: the second look finds it; twice lifted, by the API and by the
        command."""
        words = ("suspension", "lift", camera, "--by", "A. Person", "--note", "a poster")
        self._leak(camera, 0, picture)
        with self.api() as api:
            self.until(lambda: api.post(f"/v1/cameras/{camera}:lift-suspension", json={"note": "a poster"}).is_success)
        self._leak(camera, 1, picture)
        self.does("suspension-lifter", *words)

    def _leak(self, camera: str, number: int, picture: bytes) -> None:
        """As the anonymizer never does; until the camera is suspended for it."""
        message = leak(camera, number, picture)
        producer = Producer(client_config(self.role("anonymize")))
        topic = self.settings.topic(FRAMES_ANONYMIZED)
        producer.produce(topic, message.value, message.key, headers=message.headers)
        assert producer.flush(30) == 0
        self.until(lambda: self.metric_of("inspect", "sfumato_suspensions_total") == number + 1)
