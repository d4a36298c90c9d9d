"""Write the published JSON Schemas: ``make schemas``."""

import json
from pathlib import Path

from sfumato.schemas.audit import AuditEvent

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    schema = AuditEvent.model_json_schema(by_alias=True, mode="serialization")
    (DOCS / "audit.schema.json").write_text(json.dumps(schema, indent=2) + "\n")
