"""Every resource of the API. One line adds one."""

from __future__ import annotations

from fastapi import APIRouter

from sfumato.agents.api import cameras, health, jobs, uploads

ROUTERS: tuple[APIRouter, ...] = (health.router, cameras.router, uploads.router, jobs.router)
