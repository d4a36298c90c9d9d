"""Every resource of the API. One line adds one."""

from __future__ import annotations

from fastapi import APIRouter

from sfumato.agents.api import cameras, health, pseudonyms

ROUTERS: tuple[APIRouter, ...] = (health.router, cameras.router, pseudonyms.router)
