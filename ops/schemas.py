"""Write what is published of the contracts, made from the models: ``make schemas``.

JSON Schemas; of the API also ``api.proto``, ``api.xsd`` and ``openapi.json``. Fields that have no number in Protobuf
yet get one, in ``agents/web/field_numbers.json``.
"""

import json
from pathlib import Path

from sfumato.agents.api.routes import RESOURCES, ROUTES
from sfumato.agents.web import openapi, protobuf_form, xml_form
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.call import Call
from sfumato.schemas.disclosure import Disclosure
from sfumato.schemas.find import Find
from sfumato.schemas.policy import Policy
from sfumato.schemas.segment import Segment
from sfumato.schemas.suspension import Suspension

DOCS = Path(__file__).parent.parent / "docs"


def published() -> dict[Path, str]:
    """Each file and what belongs into it."""
    numbers = protobuf_form.number(protobuf_form.kept_numbers(), RESOURCES)
    schemas = {
        "audit.schema.json": AuditEvent.model_json_schema(by_alias=True, mode="serialization"),
        "call.schema.json": Call.model_json_schema(by_alias=True, mode="serialization"),
        "disclosure.schema.json": Disclosure.model_json_schema(by_alias=True, mode="serialization"),
        "find.schema.json": Find.model_json_schema(by_alias=True, mode="serialization"),
        "segment.schema.json": Segment.model_json_schema(),
        "suspension.schema.json": Suspension.model_json_schema(by_alias=True, mode="serialization"),
        "policy.schema.json": Policy.model_json_schema(),
    }
    return {
        **{DOCS / name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()},
        protobuf_form.NUMBERS: json.dumps(numbers, indent=2) + "\n",
        DOCS / "api.proto": protobuf_form.Protobuf(RESOURCES, numbers).proto(),
        DOCS / "api.xsd": xml_form.xsd(RESOURCES),
        DOCS / "openapi.json": json.dumps(openapi.document(ROUTES), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for path, text in published().items():
        path.write_text(text)
