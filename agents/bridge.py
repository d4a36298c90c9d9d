"""The bridge: anonymized frames for browsers, over WebSocket and REST, and the API.

Of the topics with frames it reads ``frames.anonymized`` only. Endpoints and the WebSocket's format: docs/bridge.md.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sfumato.agents import openapi, problems
from sfumato.agents.api.routes import ROUTERS, ROUTES
from sfumato.agents.api.uploads import Writing
from sfumato.agents.blobs import Blobs
from sfumato.agents.bodies import LARGEST, BodyTimeout
from sfumato.agents.database import Database
from sfumato.agents.desk import Desk
from sfumato.agents.gate import Gate
from sfumato.agents.headers import SecurityHeaders
from sfumato.agents.keys import Keys
from sfumato.agents.limits import Limits
from sfumato.agents.live import Live
from sfumato.agents.policy_files import read_floor
from sfumato.agents.reader import Reader
from sfumato.agents.request_ids import RequestIds
from sfumato.agents.sealing import MasterKeys
from sfumato.agents.sessions import Sessions
from sfumato.agents.settings import Settings
from sfumato.agents.standing import Standing
from sfumato.agents.stills import Stills
from sfumato.agents.tokens import Tokens
from sfumato.agents.uploads import Uploads, sweep_regularly
from sfumato.agents.usage import Usage

log = logging.getLogger(__name__)

VIEWER = Path(__file__).with_name("viewer")


def make_app(settings: Settings) -> FastAPI:
    """The ASGI application; its lifespan runs the Kafka reader. Raises DatabaseError, FloorError, BlobError,
    SealError."""
    live = Live()
    stills = Stills(settings.jpeg_quality)
    database = Database(settings)
    database.migrate()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.reader = reader = Reader(settings, live, asyncio.get_running_loop())
        app.state.standing.start()
        reader.start()
        sweeping = asyncio.create_task(sweep_regularly(app.state.uploads))
        app.state.desk.start()
        yield
        sweeping.cancel()
        await asyncio.to_thread(app.state.desk.close)
        await asyncio.to_thread(reader.close)
        await asyncio.to_thread(app.state.standing.close)
        stills.close()
        await asyncio.to_thread(app.state.usage.close)
        database.close()

    # FastAPI's documentation pages load from another site, so they are off; the schema itself is served.
    app = FastAPI(title="sfumato", version="1", docs_url=None, redoc_url=None, lifespan=lifespan, max_body_size=LARGEST)
    app.state.settings = settings
    app.state.live = live
    app.state.stills = stills
    app.state.standing = Standing(settings, read_floor(settings))
    app.state.database = database
    app.state.keys = Keys(database)
    blobs, sealing = Blobs(settings), MasterKeys(settings)
    app.state.uploads = Uploads(settings, database, blobs, sealing)
    app.state.desk = Desk(settings, database, app.state.uploads, blobs, sealing)
    app.state.writing = Writing()
    app.state.sessions = Sessions(database)
    app.state.usage = Usage(database)
    app.state.limits = Limits(settings)
    app.state.tokens = Tokens(settings)
    _add_middleware(app, settings)
    problems.add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = partial(openapi.document, ROUTES)  # type: ignore[method-assign]
    _add_viewer(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """The last one meets a request first."""
    app.add_middleware(BodyTimeout, timeout=settings.body_timeout)
    app.add_middleware(Gate)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.bridge_allowed_hosts)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestIds)


def _add_viewer(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def viewer() -> FileResponse:
        return FileResponse(VIEWER / "index.html")

    app.mount("/viewer", StaticFiles(directory=VIEWER), name="viewer")


class Server(uvicorn.Server):
    """uvicorn's server, which before it ends tells the viewers that the bridge goes away."""

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (listener for server in self.servers for listener in server.sockets):
            host, port, *_ = listener.getsockname()
            log.info("viewer: http://%s:%d/", f"[{host}]" if ":" in host else host, port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._live.close()
        await super().shutdown(sockets)


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; viewers are then closed with code 1001. SystemExit where the port is taken."""
    app = make_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.bridge_host,
        port=settings.bridge_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        ws="websockets-sansio",
        ws_per_message_deflate=False,  # JPEGs are compressed already
        ws_max_size=1024,  # viewers have nothing to say
        server_header=False,
    )
    server = Server(config, app.state.live)

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again once it has ended in good order; here that is exit status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run()
