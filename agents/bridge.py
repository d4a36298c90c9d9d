"""The bridge: anonymized frames for browsers, over WebSocket and REST, and the API.

Of the topics with frames it reads ``frames.anonymized`` only. Endpoints and the WebSocket's format: docs/bridge.md.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from sfumato.agents import metrics
from sfumato.agents.access import calls
from sfumato.agents.access.calls import CallAudit, Calls
from sfumato.agents.access.gate import Gate
from sfumato.agents.access.keys import Keys
from sfumato.agents.access.limits import Limits, Underway
from sfumato.agents.access.sessions import Sessions
from sfumato.agents.access.tokens import Tokens
from sfumato.agents.access.usage import Usage
from sfumato.agents.api.routes import ROUTERS, ROUTES
from sfumato.agents.api.uploads import Writing
from sfumato.agents.credentials import Credentials
from sfumato.agents.database import Database
from sfumato.agents.files.blobs import Blobs
from sfumato.agents.files.sealing import MasterKeys
from sfumato.agents.files.uploads import Uploads, sweep_regularly
from sfumato.agents.jobs.desk import Desk
from sfumato.agents.live import Live
from sfumato.agents.lookers import Lookers
from sfumato.agents.policy_files import read_floor
from sfumato.agents.reader import Reader
from sfumato.agents.settings import Settings
from sfumato.agents.shelf import Shelf
from sfumato.agents.standing import Standing
from sfumato.agents.stills import Stills
from sfumato.agents.subjects.disclosures import Disclosures
from sfumato.agents.subjects.requests import Requests
from sfumato.agents.web import openapi, problems, tls
from sfumato.agents.web.bodies import Bodies
from sfumato.agents.web.headers import SecurityHeaders
from sfumato.agents.web.request_ids import RequestIds
from sfumato.agents.web.server import Server, config

log = logging.getLogger(__name__)

VIEWER = Path(__file__).with_name("viewer")

LEAST_HELD = 64 * 1024 * 1024
"""Bytes of bodies in memory, beside those of the pictures that wait and of as many that are on their way."""
CORS: dict[str, Any] = {
    "allow_methods": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
    "allow_headers": ["*"],
    "allow_credentials": False,  # pages elsewhere bring a key of their own; sessions are for the viewer
    "expose_headers": ["*"],
    "max_age": 600,
}


def make_app(settings: Settings) -> FastAPI:
    """The ASGI application. Raises DatabaseError, BlobError, SealError, CredentialsError, FloorError."""
    live = Live()
    stills = Stills(settings.jpeg_quality)
    database = Database(settings)
    database.migrate()
    lookers = Lookers(settings)

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
        await asyncio.to_thread(app.state.disclosures.close)
        await asyncio.to_thread(reader.close)
        await asyncio.to_thread(app.state.standing.close)
        lookers.close()
        stills.close()
        await asyncio.to_thread(app.state.usage.close)
        await asyncio.to_thread(app.state.calls.close)
        database.close()

    # FastAPI's documentation pages load from another site, so they are off; the schema itself is served.
    app = FastAPI(title="sfumato", version="1", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.settings = settings
    app.state.live = live
    app.state.stills = stills
    app.state.standing = Standing(settings, read_floor(settings))
    app.state.database = database
    app.state.keys = Keys(database)
    app.state.lookers = lookers
    app.state.shelf = Shelf(settings.image_kept, settings.image_kept_bytes)
    app.state.sessions = Sessions(database, app.state.keys)
    app.state.usage = Usage(database)
    app.state.limits = Limits(settings)
    app.state.underway = Underway(settings.caller_connections)
    app.state.tokens = Tokens(settings)
    blobs, sealing = Blobs(settings), MasterKeys(settings)
    app.state.uploads = Uploads(settings, database, blobs, sealing)
    app.state.desk = Desk(settings, database, app.state.uploads, blobs, sealing)
    app.state.disclosures = Disclosures(settings, "sfumato-subject-requests")
    app.state.subject_requests = Requests(settings, database, app.state.uploads, app.state.disclosures)
    app.state.writing = Writing()
    app.state.credentials = Credentials(settings)
    app.state.calls = Calls(settings)
    _add_middleware(app, settings)
    problems.add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = partial(openapi.document, ROUTES)  # type: ignore[method-assign]
    _add_viewer(app)
    return app


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """The last one meets a request first."""
    pictures = settings.image_bytes * (settings.image_workers + settings.image_queue)
    app.add_middleware(Bodies, timeout=settings.body_timeout, most=LEAST_HELD + 2 * pictures)
    app.add_middleware(Gate)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.bridge_allowed_hosts)
    app.add_middleware(CallAudit)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestIds)


def _add_viewer(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def viewer() -> FileResponse:
        return FileResponse(VIEWER / "index.html")

    app.mount("/viewer", StaticFiles(directory=VIEWER), name="viewer")


def _welcome(keys: Keys) -> None:
    """Print an administrator's key where there has never been a key."""
    new = keys.create_first()
    if new is not None:
        click.echo(f"API key of the administrator, shown this once: {new.secret}")


def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; viewers are then closed with code 1001. SystemExit where the port is taken,
    SettingsError where it would be reached without TLS."""
    certificate = tls.certificate(settings)
    calls.log_lines()
    metrics.serve(settings)
    app = make_app(settings)
    _welcome(app.state.keys)
    server = Server(config(app, settings, certificate), app.state.live)

    def end(*_: object) -> None:
        server.should_exit = True

    # uvicorn raises the signal again once it has ended in good order; here that is exit status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run()
