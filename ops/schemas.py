"""Write the published JSON Schemas: ``make schemas``."""

import json
from pathlib import Path

from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.call import Call
from sfumato.schemas.find import Find
from sfumato.schemas.policy import Policy
from sfumato.schemas.suspension import Suspension

DOCS = Path(__file__).parent.parent / "docs"

if __name__ == "__main__":
    schemas = {
        "audit.schema.json": AuditEvent.model_json_schema(by_alias=True, mode="serialization"),
        "call.schema.json": Call.model_json_schema(by_alias=True, mode="serialization"),
        "find.schema.json": Find.model_json_schema(by_alias=True, mode="serialization"),
        "suspension.schema.json": Suspension.model_json_schema(by_alias=True, mode="serialization"),
        "policy.schema.json": Policy.model_json_schema(),
    }
    for name, schema in schemas.items():
        (DOCS / name).write_text(json.dumps(schema, indent=2) + "\n")
