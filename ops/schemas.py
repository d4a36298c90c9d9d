"""Write the published JSON Schemas: ``make schemas``."""

import json
from pathlib import Path

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.policy import Policy

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    schemas = {
        "audit.schema.json": AuditEvent.model_json_schema(by_alias=True, mode="serialization"),
        "policy.schema.json": Policy.model_json_schema(),
    }
    for name, schema in schemas.items():
        (DOCS / name).write_text(json.dumps(schema, indent=2) + "\n")
