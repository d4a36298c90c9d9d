"""The OpenAPI document: what FastAPI makes of the routes, with every format, every problem and an example each.

``docs/openapi.json`` is the same, written by ``make schemas``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from sfumato.agents.api.examples import example
from sfumato.agents.web import formats, problems
from sfumato.agents.web.formats import JSON, PROTOBUF, XML, Negotiated
from sfumato.agents.web.shapes import Record
from sfumato.schemas.problem import KINDS, TYPES, Problem

ABOUT = """Anonymization as a service: policies, cameras, audit, pictures, films.

Resources come as JSON, XML or Protobuf, as `Accept` says; errors are problems (RFC 9457). See docs/api.md."""
TAGS = {
    "analyses": "Biometric analysis without identity",
    "audit": "What became of each frame",
    "cameras": "Live anonymized frames",
    "detections": "Where objects are, never stored",
    "health": "Whether the bridge works",
    "images": "Pictures anonymized at once",
    "jobs": "Films and batches",
    "keys": "API keys",
    "policies": "What is masked, and on what basis",
    "pseudonyms": "Pseudonyms of metadata",
    "session": "Signing in to the viewer",
    "uploads": "Resumable uploads",
    "usage": "What was used",
}
TEXTS = {
    400: "A body, header or cursor is malformed",
    401: "No valid key or token",
    403: "The key or token lacks a scope",
    406: "None of the formats in Accept is there",
    413: "The body is too large",
    415: "The body's format is not read",
    409: "Another request with this Idempotency-Key is under way",
    422: "A field is not valid",
    429: "Too many requests",
    500: "An error of the bridge",
}
PROBLEM = "#/components/schemas/Problem"
REQUEST_ID = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}


def document(routes: Sequence[Negotiated]) -> dict[str, Any]:
    """The document of these routes."""
    shown = [route for route in routes if route.include_in_schema]
    made = get_openapi(
        title="sfumato",
        version="1",
        summary="Anonymization as a service",
        description=ABOUT,
        routes=shown,
        license_info={"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        contact={"name": "Whoever runs this bridge"},
        servers=[{"url": "/", "description": "This bridge"}],
    )
    for route in shown:
        for method in route.methods or ():
            _complete(made["paths"][route.path_format][method.lower()], route)
    used = {tag for path in made["paths"].values() for operation in path.values() for tag in operation["tags"]}
    made["tags"] = [{"name": tag, "description": TAGS.get(tag, tag)} for tag in sorted(used)]
    _components(made["components"])
    _close_arrays(made)
    renamed: dict[str, Any] = json.loads(re.sub(r"\bPage_(\w+?)_(?=\")", r"\1Page", json.dumps(made)))
    return renamed


def operation_id(route: Negotiated) -> str:
    """As the route says, else the name of its function."""
    first, *rest = route.name.split("_")
    return route.operation_id or first + "".join(word.capitalize() for word in rest)


def _complete(operation: dict[str, Any], route: Negotiated) -> None:
    operation["operationId"] = operation_id(route)
    operation.setdefault("description", f"{operation['summary']}.")
    _complete_security(operation)
    for parameter in operation.get("parameters", ()):
        _complete_parameter(parameter)
    taken, given = formats.accepted(route), formats.returned(route)
    if taken is not None:
        operation["requestBody"]["content"] = _contents(taken, operation["requestBody"]["content"][JSON]["schema"])
    answers = operation["responses"]
    for status, answer in list(answers.items()):
        declared = (route.responses.get(int(status)) or {}) if status.isdigit() else {}
        if status[0] == "2":
            _complete_success(answer, given, "content" in declared)
        elif status == "304":
            answer.pop("content", None)
    for status in (*(int(status) for status in answers if status[0] in "45"), *_problems(operation, route)):
        told = answers.get(str(status), {}).get("description")
        text = TEXTS.get(status) if told in (None, "Validation Error") else told
        answers[str(status)] = _problem(status, text or KINDS[status])
    for answer in answers.values():
        answer.setdefault("headers", {}).update(REQUEST_ID)
    operation["responses"] = {status: answers[status] for status in sorted(answers)}


def _complete_security(operation: dict[str, Any]) -> None:
    """Only OAuth 2.0 knows scopes; that the others want them, too, is said in words."""
    wanted = sorted({scope for each in operation.get("security", ()) for scopes in each.values() for scope in scopes})
    if wanted:
        operation["description"] += f"\n\nWants the scope {', '.join(f'`{scope}`' for scope in wanted)}."
    for each in operation.get("security", ()):
        each.update({name: [] for name in each if name != "oauth2"})


def _complete_parameter(parameter: dict[str, Any]) -> None:
    """A parameter is left out rather than null; headers are written as everybody does."""
    schema = parameter["schema"]
    options = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
    if options:
        schema.update(options[0] if len(options) == 1 else {"anyOf": options})
    if parameter["in"] == "header":
        parameter["name"] = "-".join(word.capitalize() for word in re.split("[-_]", parameter["name"]))
    parameter.setdefault("description", schema.get("description", schema.get("title", parameter["name"])))


def _complete_success(answer: dict[str, Any], model: type[BaseModel] | None, other: bool) -> None:
    content = answer.get("content", {})
    if model is not None and JSON in content and content[JSON].get("schema"):
        others = {kind: value for kind, value in content.items() if kind != JSON} if other else {}
        answer["content"] = _contents(model, content[JSON]["schema"]) | others
    for kind, value in answer.get("content", {}).items():
        if not value:
            value["schema"] = {"type": "string", "contentMediaType": kind}
    if answer["description"] == "Successful Response":
        answer["description"] = "Done"


def _contents(model: type[BaseModel], schema: dict[str, Any]) -> dict[str, Any]:
    """The three forms of a model; XML and Protobuf are described by the XSD and the ``.proto``."""
    name, shown = Record(model).name, example(model)
    xml = {"type": "string", "contentMediaType": XML, "description": f"Element `{name}` of docs/api.xsd"}
    proto = {"type": "string", "contentMediaType": PROTOBUF, "description": f"Message `{name}` of docs/api.proto"}
    contents: dict[str, Any] = {JSON: {"schema": schema}, XML: {"schema": xml}, PROTOBUF: {"schema": proto}}
    if shown is not None:
        contents[JSON]["example"] = shown
        contents[XML]["example"] = formats.encode(model, shown, XML).decode()
    return contents


def _problems(operation: dict[str, Any], route: Negotiated) -> Iterator[int]:
    """The statuses that any operation of this form may answer with."""
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    if operation.get("security"):
        yield from (401, 403, 429)
    if formats.offers(route):
        yield 406
    if "requestBody" in operation:
        yield from (400, 413, 415)
    if names or "requestBody" in operation:
        yield 422
    if "cursor" in names:
        yield 400
    if "Idempotency-Key" in names:
        yield 409
    yield 500


def _problem(status: int, description: str) -> dict[str, Any]:
    shown = {
        "type": TYPES + KINDS[status],
        "title": problems.title(status),
        "status": status,
        "detail": description,
        "instance": "urn:sfumato:request:4f1c0c2d9b7e4e0f8a3d5b6c7d8e9f00",
    }
    return {
        "description": description,
        "content": {
            problems.JSON: {"schema": {"$ref": PROBLEM}, "example": shown},
            problems.XML: {"schema": {"type": "string", "contentMediaType": problems.XML}},
        },
    }


def _components(components: dict[str, Any]) -> None:
    schemas = components["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    made = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
    schemas.update(made.pop("$defs"))
    schemas["Problem"] = made
    text = {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"}
    components["headers"] = {"X-Request-Id": {"description": "The request's id, also in the log", "schema": text}}


def _close_arrays(schema: Any) -> None:
    """Tuples say what would come after their last item, although nothing may: some tools want it."""
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        _close_arrays(part)
    if isinstance(schema, dict) and "prefixItems" in schema:
        schema.setdefault("items", schema["prefixItems"][0])


def operations(made: dict[str, Any]) -> Iterable[tuple[str, str, dict[str, Any]]]:
    """Each path, method and operation of a document."""
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation
