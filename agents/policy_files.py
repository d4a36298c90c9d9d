"""Files a person writes: the policies (TOML or JSON) and the site's floor (TOML)."""

from __future__ import annotations

import json
import tomllib
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfumato.agents import toml_files
from sfumato.agents.settings import Settings
from sfumato.agents.toml_files import TomlFileError
from sfumato.schemas.cloudevent import EnvelopeError
from sfumato.schemas.fault import Fault
from sfumato.schemas.floor import Floor
from sfumato.schemas.policy import Policy
from sfumato.schemas.remedy import remedies


class PolicyError(Fault, ValueError):
    """A policy, or a change of one, is refused; the text names it, the field and the remedy."""


class FloorError(Fault, ValueError):
    """The site's floor cannot be read; the text names the file and the field. Nothing may be looked at without it."""


def read_floor(settings: Settings) -> Floor:
    """The floor that ``SFUMATO_POLICY_FLOOR`` names, else one that allows everything."""
    path = settings.policy_floor
    if path is None:
        return Floor()
    try:
        return Floor.model_validate_json(_as_json(toml_files.load(path)))
    except ValidationError as error:
        problem = remedies(error)
    except TomlFileError as error:
        problem = str(error)
    raise FloorError(f"SFUMATO_POLICY_FLOOR {path}: {problem}")


def read_file(path: Path, floor: Floor | None = None) -> list[Policy]:
    """The policies of a file: ``[defaults]`` and one ``[[policy]]`` table each, as TOML or JSON, or a single policy as
    ``sfumato policy get`` prints it. :class:`PolicyError` names every policy and field at fault, or below the floor."""
    rows = _rows(path, _parse(path))
    policies: list[Policy] = []
    problems: list[str] = []
    for row in rows:
        where = f"{path}: policy of {str(row.get('camera', '?'))!r}"
        try:
            policies.append(policy := _read_row(row))
        except EnvelopeError as error:
            problems.append(f"{where}: {str(error).removeprefix('value: ')}")
        else:
            problems += [f"{where}: {problem}" for problem in (floor or Floor()).problems(policy)]
    names = [policy.camera for policy in policies]
    problems += [
        f"{path}: {name!r} has two policies; leave one" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if problems:
        raise PolicyError("\n".join(problems))
    return policies


def _parse(path: Path) -> dict[str, Any]:
    try:
        text = toml_files.read(path)
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except TomlFileError as error:
        raise PolicyError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML (JSON wants a name that ends in .json)"
        raise PolicyError(f"{path}: not {kind}: {error}") from None
    if not isinstance(document, dict):
        raise PolicyError(f"{path}: not an object; write one policy, or defaults and policy")
    return document


def _rows(path: Path, document: dict[str, Any]) -> list[dict[str, Any]]:
    if "camera" in document:
        return [document]
    if unknown := document.keys() - {"defaults", "policy"}:
        raise PolicyError(f"{path}: unknown key {', '.join(sorted(unknown))}; known: defaults, policy")
    defaults, rows = document.get("defaults", {}), document.get("policy", [])
    if not isinstance(defaults, dict) or not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PolicyError(f"{path}: write [defaults] once and [[policy]] for each policy")
    if not rows:
        raise PolicyError(f"{path}: holds no [[policy]]")
    return [{**defaults, **row} for row in rows]


def _read_row(row: dict[str, Any]) -> Policy:
    return Policy.from_message(str(row.get("camera", "?")).encode(), _as_json(row))


def _as_json(document: dict[str, Any]) -> bytes:
    """TOML's dates and times as ISO 8601."""

    def text(value: object) -> str:
        if isinstance(value, date | time):  # a datetime is a date
            return value.isoformat()
        raise TypeError(type(value).__name__)

    return json.dumps(document, default=text).encode()
