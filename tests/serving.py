"""The API over real HTTP without a broker: what needs no live frames."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

import httpx

from sfumato.agents.bridge import make_app
from sfumato.agents.settings import Settings
from sfumato.agents.web.server import Server, config
from sfumato.schemas.scope import Scope
from tests.calling import bearer, secret


class Api:
    """A bridge whose reader is not started, in a thread of this process; ``client`` has a key of all scopes."""

    def __init__(self, settings: Settings, *scopes: Scope) -> None:
        self.settings = settings
        self.app = make_app(settings)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        quiet = config(self.app, settings, None)
        quiet.lifespan = "off"
        self._server = Server(quiet, self.app.state.live)
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],))
        self.client = self.caller(*scopes)

    def caller(self, *scopes: Scope) -> httpx.Client:
        """Another caller, with a key of its own."""
        headers = bearer(secret(self.settings, *scopes))
        return httpx.Client(base_url=f"http://{self.address}", headers=headers, timeout=60)

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(20)
        self.app.state.lookers.close()
        self.app.state.usage.close()
        self.app.state.calls.close(0)
        self.app.state.database.close()
        assert not self._thread.is_alive()
