"""Every resource of the API. One line adds one."""

from __future__ import annotations

from fastapi import APIRouter

from sfumato.agents.api import cameras, health, keys, session, usage

ROUTERS: tuple[APIRouter, ...] = (health.router, cameras.router, session.router, keys.router, usage.router)
