"""The client's side of an upload by tus, in pieces or slowly."""

from __future__ import annotations

import re
import socket

import httpx
from tusclient.client import TusClient

from sfumato.agents.broker import free_port
from sfumato.agents.settings import Settings
from tests.uploading import make_uploads

TUS = {"Tus-Resumable": "1.0.0"}
BODY = {"Content-Type": "application/offset+octet-stream"}
BROKER = f"127.0.0.1:{free_port()}"
"""Nobody listens there: uploads need no Kafka."""


def create(client: httpx.Client, length: int | None, **headers: str) -> str:
    said = {"Upload-Defer-Length": "1"} if length is None else {"Upload-Length": str(length)}
    response = client.post("/v1/uploads", headers={**said, **headers})
    assert response.status_code == 201, response.text
    assert response.headers["tus-resumable"] == "1.0.0"
    return response.headers["location"]


def patch(client: httpx.Client, url: str, offset: int, content: object, **headers: str) -> httpx.Response:
    return client.patch(url, content=content, headers={**BODY, "Upload-Offset": str(offset), **headers})  # type: ignore[arg-type]


def offset(client: httpx.Client, url: str) -> int:
    response = client.head(url)
    assert response.status_code == 200
    return int(response.headers["upload-offset"])


def read(settings: Settings, url: str) -> bytes:
    """What was uploaded, as a job reads it."""
    uploads = make_uploads(settings)
    with uploads.open(url.rpartition("/")[2]) as file:
        found = file.readall()
    uploads._database.close()
    return found


def tus_client(client: httpx.Client) -> TusClient:
    address = str(client.base_url.join("/v1/uploads"))
    return TusClient(address, headers={"Authorization": client.headers["Authorization"]})


class Slow:
    """A PATCH whose body is sent as told, over a connection of its own."""

    def __init__(self, client: httpx.Client, url: str, length: int, offset: int = 0, **headers: str) -> None:
        self._socket = socket.create_connection((client.base_url.host, client.base_url.port), timeout=30)
        said = {
            "Host": client.base_url.netloc.decode(),
            "Authorization": client.headers["Authorization"],
            **TUS,
            **BODY,
            "Upload-Offset": str(offset),
            "Content-Length": str(length),
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in said.items())
        self._socket.sendall(f"PATCH {url} HTTP/1.1\r\n{lines}\r\n".encode())

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def status(self) -> int:
        found = re.match(rb"HTTP/1.1 (\d+)", self._socket.recv(1000))
        assert found is not None
        return int(found[1])

    def break_off(self) -> None:
        self._socket.close()
