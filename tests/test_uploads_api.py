"""Uploads over HTTP: by tuspy, a client that others wrote, and by hand where a client would not err."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest
from fastapi.openapi.utils import get_openapi
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from sfumato.agents.api import uploads as api
from sfumato.agents.files.sealing import SEGMENT
from sfumato.agents.settings import Settings
from sfumato.agents.web.tus import EXTENSIONS
from sfumato.schemas.scope import Scope
from tests.calling import bearer, secret
from tests.serving import Api
from tests.test_bridge import Bridge
from tests.test_uploads import blobs, long_film
from tests.tus import BODY, BROKER, TUS, Slow, create, offset, patch, read, tus_client
from tests.uploading import film


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(state_dir=tmp_path_factory.mktemp("uploads") / "state", bootstrap_servers=BROKER)


@pytest.fixture(scope="module")
def running(settings: Settings) -> Iterator[Bridge]:
    with Bridge(settings, until="/healthz") as bridge:
        yield bridge


@pytest.fixture
def bridge(running: Bridge, settings: Settings) -> Bridge:
    """One for all tests, since it takes seconds to end; without uploads."""
    for name in blobs(settings):
        running.app.state.uploads.delete(name.split("/")[1])
    return running


@pytest.fixture
def client(bridge: Bridge, settings: Settings) -> Iterator[httpx.Client]:
    headers = {**TUS, **bearer(secret(settings, Scope.UPLOADS_WRITE))}
    with httpx.Client(base_url=f"http://{bridge.address}", headers=headers, timeout=30) as client:
        yield client


def problem(response: httpx.Response, status: int, text: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["tus-resumable"] == "1.0.0"
    assert text in response.json()["detail"]


def test_tuspy_uploads_in_pieces_and_goes_on_where_it_stopped(client, settings):
    data = film(pictures=40)
    tus = tus_client(client)
    uploader = tus.uploader(file_stream=io.BytesIO(data), chunk_size=10_000, metadata={"filename": "Ünter.mp4"})
    uploader.upload(stop_at=len(data) // 2)
    url = uploader.url
    shown = client.get(url).json()
    assert (shown["filename"], shown["complete"], shown["length"]) == ("Ünter.mp4", False, len(data))
    assert len(data) // 2 <= shown["offset"] < len(data)
    again = tus.uploader(file_stream=io.BytesIO(data), chunk_size=20_000, url=url)
    assert again.offset == shown["offset"]
    again.upload()
    assert client.get(url).json()["content_type"] == "video/mp4"
    assert read(settings, url) == data


def test_tuspy_compares_checksums(client, settings):
    data = film()
    uploader = tus_client(client).uploader(file_stream=io.BytesIO(data), chunk_size=5000, upload_checksum=True)
    uploader.upload()
    assert read(settings, uploader.url) == data


def test_tuspy_is_refused_without_the_scope(client, settings, bridge):
    tus = TusClient(f"http://{bridge.address}/v1/uploads", headers=bearer(secret(settings, Scope.JOBS_READ)))
    with pytest.raises(TusCommunicationError) as refused:
        tus.uploader(file_stream=io.BytesIO(b"x"), chunk_size=10).upload()
    assert refused.value.status_code == 403


def test_options_say_what_there_is(client, settings):
    for path in ("/v1/uploads", "/v1/uploads/x"):
        response = client.options(path, headers={"Tus-Resumable": "9"})  # the header is ignored here
        assert response.status_code == 204
        assert response.headers["tus-version"] == "1.0.0"
        assert response.headers["tus-max-size"] == str(settings.upload_max_bytes)
        assert response.headers["tus-extension"] == EXTENSIONS
        assert response.headers["tus-checksum-algorithm"] == "sha1,sha256"


def test_every_method_wants_the_protocols_version(client):
    url = create(client, 10)
    for method in ("POST", "HEAD", "PATCH", "DELETE"):
        for version in ("0.2.2", ""):
            target = "/v1/uploads" if method == "POST" else url
            response = client.request(method, target, headers={"Tus-Resumable": version})
            assert response.status_code == 412, method
            assert response.headers["tus-version"] == "1.0.0"
    assert offset(client, url) == 0


def test_head_tells_where_it_is_and_is_never_cached(client):
    said = f"filename {base64.b64encode(b'a b.mp4').decode()},empty,filetype {base64.b64encode(b'video/mp4').decode()}"
    url = create(client, 100, **{"Upload-Metadata": said})
    response = client.head(url)
    assert (response.headers["upload-offset"], response.headers["upload-length"]) == ("0", "100")
    assert response.headers["upload-metadata"] == said
    assert response.headers["cache-control"] == "no-store"
    left = parsedate_to_datetime(response.headers["upload-expires"]).timestamp() - time.time()
    assert 86_000 < left <= 86_401
    assert client.head(f"{url}0").status_code == 404


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "Upload-Length"),
        ({"Upload-Length": "10", "Upload-Defer-Length": "1"}, "Upload-Length"),
        ({"Upload-Defer-Length": "2"}, "Upload-Defer-Length"),
        ({"Upload-Length": "-1"}, "Upload-Length"),
        ({"Upload-Length": "0"}, "Upload-Length"),
        ({"Upload-Length": "1e3"}, "Upload-Length"),
        ({"Upload-Length": "9" * 30}, "Upload-Length"),
        ({"Upload-Length": "10", "Upload-Metadata": "filename !!"}, "Upload-Metadata"),
        ({"Upload-Length": "10", "Upload-Metadata": "a YQ==,a YQ=="}, "Upload-Metadata"),
        ({"Upload-Length": "10", "Upload-Metadata": "a /w=="}, "Upload-Metadata"),
        ({"Upload-Length": "10", "Upload-Metadata": ","}, "Upload-Metadata"),
        ({"Upload-Length": "10", "Upload-Metadata": "a " + "YWFh" * 2000}, "Upload-Metadata"),
        ({"Upload-Length": "10", "Upload-Checksum": "md5 YQ=="}, "Upload-Checksum"),
        ({"Upload-Length": "10", "Upload-Checksum": "sha1 YQ=="}, "Upload-Checksum"),
    ],
)
def test_what_is_not_valid_is_named(client, headers, text):
    problem(client.post("/v1/uploads", headers=headers), 400, text)


def test_too_large_is_said_before_anything_is_sent(client, settings):
    said = {"Upload-Length": str(settings.upload_max_bytes + 1)}
    problem(client.post("/v1/uploads", headers=said), 413, "SFUMATO_UPLOAD_MAX_BYTES")
    url = create(client, 10)
    problem(patch(client, url, 0, b"x" * 11), 413, "Upload-Length")
    problem(patch(client, url, 0, iter([b"x" * 6, b"x" * 6])), 413, "Upload-Length")  # its length is not announced
    assert offset(client, url) == 0


def test_a_wrong_offset_or_type_changes_nothing(client):
    url = create(client, 10)
    problem(patch(client, url, 3, b"x"), 409, "wants 0")
    problem(client.patch(url, content=b"x", headers={"Upload-Offset": "0"}), 415, "application/offset+octet-stream")
    problem(client.patch(url, content=b"x", headers=BODY), 400, "Upload-Offset")
    problem(patch(client, url, 0, b"x", **{"Upload-Offset": "x"}), 400, "Upload-Offset")
    assert offset(client, url) == 0
    assert patch(client, url, 0, b"abc").headers["upload-offset"] == "3"
    problem(patch(client, url, 0, b"abc"), 409, "wants 3")
    assert offset(client, url) == 3


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_a_body_that_is_not_what_its_checksum_says_is_discarded(client, settings, name):
    url = create(client, 100)
    digest = base64.b64encode(hashlib.new(name, b"sent").digest()).decode()
    problem(patch(client, url, 0, b"came", **{"Upload-Checksum": f"{name} {digest}"}), 460, "Upload-Checksum")
    assert offset(client, url) == 0
    assert not blobs(settings)
    assert patch(client, url, 0, b"sent", **{"Upload-Checksum": f"{name} {digest}"}).status_code == 204
    assert offset(client, url) == 4


def test_a_large_body_with_a_wrong_checksum_leaves_no_segment(client, settings):
    url = create(client, 100 * SEGMENT)
    digest = base64.b64encode(bytes(20)).decode()
    problem(patch(client, url, 0, bytes(2 * SEGMENT + 5), **{"Upload-Checksum": f"sha1 {digest}"}), 460, "Checksum")
    assert offset(client, url) == 0
    assert not blobs(settings)


def test_creation_with_upload(client, settings):
    data = film()
    headers = {**BODY, "Upload-Length": str(len(data))}
    response = client.post("/v1/uploads", content=data[:100], headers=headers)
    assert (response.status_code, response.headers["upload-offset"]) == (201, "100")
    assert patch(client, response.headers["location"], 100, data[100:]).headers["upload-offset"] == str(len(data))
    assert read(settings, response.headers["location"]) == data
    problem(client.post("/v1/uploads", content=b"x", headers={"Upload-Length": "1", "Content-Type": "a/b"}), 415, "a")
    before = blobs(settings)
    problem(client.post("/v1/uploads", content=data, headers={**BODY, "Upload-Length": "5"}), 413, "Upload-Length")
    assert blobs(settings) == before


def test_the_length_may_come_later(client, settings):
    data = film()
    url = create(client, None)
    assert client.head(url).headers["upload-defer-length"] == "1"
    assert patch(client, url, 0, data[:50]).status_code == 204
    response = patch(client, url, 50, data[50:], **{"Upload-Length": str(len(data))})
    assert response.headers["upload-offset"] == str(len(data))
    assert client.head(url).headers["upload-length"] == str(len(data))
    problem(patch(client, url, len(data), b"", **{"Upload-Length": "5"}), 409, "length")
    assert client.get(url).json()["content_type"] == "video/mp4"


def test_methods_can_be_overridden(client):
    url = create(client, 10)
    headers = {**BODY, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert client.post(url, content=b"abc", headers=headers).headers["upload-offset"] == "3"
    assert client.post(url, headers={"X-HTTP-Method-Override": "HEAD"}).headers["upload-offset"] == "3"
    assert client.post(url).status_code == 405
    assert client.post(url, headers={"X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert client.head(url).status_code == 404


def test_deleting_leaves_nothing(client, settings):
    url = create(client, 10)
    patch(client, url, 0, b"abc")
    assert blobs(settings)
    assert client.delete(url).status_code == 204
    assert not blobs(settings)
    problem(client.delete(url), 404, "no such upload")
    problem(client.get(url), 404, "no such upload")


def test_another_callers_upload_is_not_there(client, settings, bridge):
    url = create(client, 10)
    stranger = {**TUS, **bearer(secret(settings, Scope.UPLOADS_WRITE))}
    with httpx.Client(base_url=f"http://{bridge.address}", headers=stranger) as other:
        assert other.head(url).status_code == 404
        problem(patch(other, url, 0, b"x"), 404, "no such upload")
        problem(other.delete(url), 404, "no such upload")
        problem(other.get(url), 404, "no such upload")
        assert httpx.get(f"http://{bridge.address}{url}").status_code == 401
    assert offset(client, url) == 0


def test_bytes_are_never_served_back_nor_names_logged(client, settings, caplog):
    caplog.set_level("DEBUG")
    marker = b"MARKER-of-raw-footage-0815"
    data = long_film(marker, 1000)
    url = create(client, len(data), **{"Upload-Metadata": f"filename {base64.b64encode(b'mustermann.mp4').decode()}"})
    assert patch(client, url, 0, data).status_code == 204
    for headers in ({}, {"Range": "bytes=0-100"}, {"Accept": "video/mp4"}, {"Accept": "*/*"}):
        for path in (url, f"{url}/", f"{url}/content"):
            assert marker not in client.get(path, headers=headers).content
    assert client.get(url).json()["content_type"] == "video/mp4"
    assert "mustermann" not in caplog.text
    for path in settings.state_dir.rglob("*"):
        assert not path.is_file() or marker not in path.read_bytes(), path


def test_what_is_no_picture_or_film_is_refused_at_its_end_and_deleted(client, settings):
    url = create(client, 40)
    problem(patch(client, url, 0, b"PK\x03\x04" + bytes(36)), 415, "none of JPEG")
    assert client.head(url).status_code == 404
    assert not blobs(settings)


def test_the_curl_lines_of_the_documents_upload_and_go_on(client, bridge, settings, tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "uploads.md").read_text()
    (script,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    data = film(pictures=30)
    (tmp_path / "holiday film.mp4").write_bytes(data)
    environment = {
        **os.environ,
        "KEY": client.headers["Authorization"].removeprefix("Bearer "),
        "BRIDGE": f"http://{bridge.address}",
        "FILE": str(tmp_path / "holiday film.mp4"),
    }
    whole = ["bash", "-euo", "pipefail", "-c", script]
    shown = json.loads(subprocess.run(whole, env=environment, check=True, capture_output=True, timeout=60).stdout)
    assert (shown["filename"], shown["content_type"]) == ("holiday film.mp4", "video/mp4")
    assert read(settings, shown["id"]) == data
    url = create(client, len(data))
    patch(client, url, 0, data[:1234])
    begin, rest = script.index("# Begin"), script.index("# Where is it?")
    again = ["bash", "-euo", "pipefail", "-c", script[:begin] + f"UPLOAD={url}\n" + script[rest:]]
    subprocess.run(again, env=environment, check=True, capture_output=True, timeout=60)
    assert read(settings, url) == data


def test_a_patch_that_breaks_off_keeps_what_arrived(client, bridge, settings):
    data = long_film()
    url = create(client, len(data))
    slow = Slow(client, url, len(data))
    slow.send(data[: SEGMENT + 1000])
    bridge.wait_until(lambda: offset(client, url) >= SEGMENT)
    slow.break_off()
    bridge.wait_until(lambda: offset(client, url) == SEGMENT + 1000)
    assert patch(client, url, SEGMENT + 1000, data[SEGMENT + 1000 :]).status_code == 204
    assert read(settings, url) == data


def test_a_body_with_a_checksum_that_breaks_off_counts_for_nothing(client, bridge, settings):
    url = create(client, 10 * SEGMENT)
    digest = base64.b64encode(bytes(20)).decode()
    slow = Slow(client, url, 3 * SEGMENT, **{"Upload-Checksum": f"sha1 {digest}"})
    slow.send(bytes(SEGMENT + 1000))
    bridge.wait_until(lambda: len(blobs(settings)) == 1)
    slow.break_off()
    bridge.wait_until(lambda: not blobs(settings))
    assert offset(client, url) == 0


def test_of_two_patches_at_once_one_is_told_to_wait(client, bridge):
    url = create(client, 100)
    slow = Slow(client, url, 50)
    slow.send(b"x" * 10)
    bridge.wait_until(lambda: bool(bridge.app.state.writing.ids))
    response = patch(client, url, 0, b"y" * 10)
    problem(response, 423, "another request")
    assert response.headers["retry-after"]
    slow.send(b"x" * 40)
    assert slow.status() == 204
    assert offset(client, url) == 50
    assert not bridge.app.state.writing.ids


def test_more_requests_than_memory_allows_are_told_to_wait(client, bridge, monkeypatch):
    monkeypatch.setattr(api, "MOST_WRITING", 1)
    first, second = create(client, 100), create(client, 100)
    slow = Slow(client, first, 50)
    bridge.wait_until(lambda: bool(bridge.app.state.writing.ids))
    problem(patch(client, second, 0, b"y"), 503, "too many")
    slow.break_off()


@pytest.mark.parametrize("dribbles", [False, True])
def test_a_body_that_stops_or_dribbles_is_ended_and_what_arrived_counts(tmp_path, dribbles):
    with Api(Settings(state_dir=tmp_path, bootstrap_servers=BROKER, body_timeout=0.5)) as api:
        api.client.headers.update(TUS)
        url = create(api.client, 1_000_000)
        slow = Slow(api.client, url, 1_000_000)
        slow.send(b"x" * 100)
        ending = threading.Event()
        if dribbles:

            def dribble() -> None:
                while not ending.wait(0.05):
                    try:
                        slow.send(b"x")
                    except OSError:
                        return

            threading.Thread(target=dribble, daemon=True).start()
        assert slow.status() == 408
        ending.set()
        assert offset(api.client, url) >= 100


def test_the_resource_describes_itself():
    schema = get_openapi(title="uploads", version="1", routes=api.router.routes)
    assert set(schema["paths"]) == {"/v1/uploads", "/v1/uploads/{id}"}
    assert "460" in schema["paths"]["/v1/uploads/{id}"]["patch"]["responses"]


def test_sent_again_with_one_idempotency_key_one_upload_is_begun(bridge, client):
    content = film()[:1000]
    said = {**BODY, "Upload-Length": "5000", "Idempotency-Key": "once"}
    first, again = (client.post("/v1/uploads", headers=said, content=content) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert (again.headers["location"], again.headers["idempotent-replayed"]) == (first.headers["location"], "true")
    assert client.head(first.headers["location"]).headers["upload-offset"] == "1000"
    other = client.post("/v1/uploads", headers={**said, "Upload-Length": "5001"}, content=content)
    assert (other.status_code, other.json()["type"]) == (422, "urn:sfumato:problem:idempotency-key-reused")
    broken = {**said, "Idempotency-Key": "broken", "Upload-Checksum": "sha256 " + base64.b64encode(b"0" * 32).decode()}
    for _ in range(2):  # what failed is not kept
        refused = client.post("/v1/uploads", headers=broken, content=content)
        assert (refused.status_code, "idempotent-replayed" in refused.headers) == (460, False)


def test_an_upload_answers_other_methods_with_those_that_it_has(client):
    refused = client.post(f"/v1/uploads/{'0' * 32}")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, PATCH, DELETE, OPTIONS")
