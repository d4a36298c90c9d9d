"""Uploads over the end of the bridge: what was on the disk goes on, what had expired is gone."""

from __future__ import annotations

import io
import signal
import time

import httpx

from sfumato.agents.files.sealing import SEGMENT
from sfumato.agents.settings import Settings
from sfumato.schemas.scope import Scope
from tests.calling import bearer, secret
from tests.test_bridge_process import Process
from tests.test_uploads import blobs, long_film
from tests.tus import BROKER, TUS, Slow, create, offset, read, tus_client
from tests.uploading import make_uploads


def test_resumes_after_kill_9(tmp_path):
    """The offset is exactly what is on the disk; a half-written blob is swept away; nothing is lost or doubled."""
    settings = Settings(state_dir=tmp_path / "state", bootstrap_servers=BROKER)
    headers = {**TUS, **bearer(secret(settings, Scope.UPLOADS_WRITE))}
    data = long_film()
    with Process(BROKER, "", tmp_path / "log") as first:
        first.wait_for("/healthz", 200)
        with httpx.Client(base_url=f"http://{first.address}", headers=headers) as client:
            url = create(client, len(data))
            slow = Slow(client, url, len(data))
            slow.send(data[: SEGMENT + 5000])
            while offset(client, url) < SEGMENT:
                time.sleep(0.02)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    id = url.rpartition("/")[2]
    orphan = settings.state_dir / "files" / "uploads" / id / f"0-{'e' * 16}"
    orphan.write_bytes(b"written, but its row was not")
    with Process(BROKER, "", tmp_path / "log") as second:
        second.wait_for("/healthz", 200)
        with httpx.Client(base_url=f"http://{second.address}", headers=headers) as client:
            reached = offset(client, url)
            assert reached == SEGMENT
            tus = tus_client(client)
            tus.uploader(file_stream=io.BytesIO(data), chunk_size=SEGMENT, url=f"http://{second.address}{url}").upload()
            assert client.get(url).json()["complete"]
        deadline = time.monotonic() + 30
        while orphan.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert second.end(signal.SIGTERM) == 0
        assert "Traceback" not in second.log
    assert read(settings, url) == data


def test_what_expired_while_nothing_ran_is_deleted_at_the_start(tmp_path):
    settings = Settings(state_dir=tmp_path / "state", bootstrap_servers=BROKER, upload_expiry=0.001)
    uploads = make_uploads(settings)
    id = uploads.create("key:1", 10).id
    store = uploads._blobs
    store.put(f"uploads/{id}/0-{'a' * 16}", b"sealed")
    uploads._database.close()
    with Process(BROKER, "", tmp_path / "log") as process:
        process.wait_for("/healthz", 200)
        deadline = time.monotonic() + 30
        while blobs(settings):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_key_file_that_cannot_be_used_ends_the_bridge_with_its_name(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sealing.key").write_text("nonsense")
    (tmp_path / "state" / "sealing.key").chmod(0o600)
    with Process(BROKER, "", tmp_path / "log") as process:
        assert process.process.wait(60) == 1
        assert "SFUMATO_SEALING_KEY_FILE: line 1" in process.log
        assert "Traceback" not in process.log
