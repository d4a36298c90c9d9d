"""Write the published JSON Schemas: ``make schemas``."""

import json
from pathlib import Path
from typing import Any

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.policy import Policy

DOCS = Path(__file__).parent.parent / "docs"


def schemas() -> dict[str, dict[str, Any]]:
    """By file name in docs/."""
    return {
        "audit.schema.json": AuditEvent.model_json_schema(by_alias=True, mode="serialization"),
        "policy.schema.json": Policy.model_json_schema(),
    }


def text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    for name, schema in schemas().items():
        (DOCS / name).write_text(text(schema))
