"""``shares.toml``: which vendor gets which cameras as a topic of its own; see docs/brokers.md."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfumato.agents import toml_files
from sfumato.agents.toml_files import TomlFileError
from sfumato.schemas.audit import summary
from sfumato.schemas.fault import Fault
from sfumato.schemas.policy import CAMERAS
from sfumato.schemas.topics import FRAMES_ANONYMIZED, Topic

SHARED = "shared."
"""Begins the name of every vendor's topic."""


class ShareError(Fault, ValueError):
    """The table of vendors is not valid; the text names the vendor and the key."""


class Vendor(BaseModel):
    """One ``[[vendor]]`` table. ``cameras``: ids and patterns. ``principal``: as Kafka writes it; by default
    ``User:vendor-NAME``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    cameras: Annotated[
        tuple[Annotated[str, Field(pattern=f"^{CAMERAS.pattern}$")], ...], Field(min_length=1, strict=False)
    ]
    principal: Annotated[str, Field(pattern=r"^[A-Za-z]+:.*[^*\s]$")] | None = None

    @property
    def owner(self) -> str:
        """The principal that reads its topic."""
        return self.principal or f"User:vendor-{self.name}"

    @property
    def topic(self) -> Topic:
        """The vendor's own: as ``frames.anonymized``."""
        return replace(FRAMES_ANONYMIZED, name=SHARED + self.name)

    def gets(self, camera: str) -> bool:
        # An id holds none of fnmatch's other signs.
        return any(fnmatchcase(camera, pattern) for pattern in self.cameras)


def read_file(path: Path) -> list[Vendor]:
    """The vendors of a TOML file with one ``[[vendor]]`` table each; :class:`ShareError` names what is wrong."""
    try:
        tables = toml_files.tables(path, "vendor")
    except TomlFileError as error:
        raise ShareError(f"{path}: {error}") from None
    vendors: dict[str, Vendor] = {}
    for where, table in tables:
        try:
            vendor = Vendor.model_validate(table)
        except ValidationError as error:
            raise ShareError(f"{where}: {summary(error)}") from None
        if vendor.name in vendors:
            raise ShareError(f"{where}: name: {vendor.name!r} is given twice")
        vendors[vendor.name] = vendor
    return list(vendors.values())
