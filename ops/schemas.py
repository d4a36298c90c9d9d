"""Write the published JSON Schemas: ``make schemas``."""

import json
from pathlib import Path

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.find import Find
from sfumato.schemas.suspension import Suspension

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    for name, model in {"audit": AuditEvent, "find": Find, "suspension": Suspension}.items():
        schema = model.model_json_schema(by_alias=True, mode="serialization")
        (DOCS / f"{name}.schema.json").write_text(json.dumps(schema, indent=2) + "\n")
