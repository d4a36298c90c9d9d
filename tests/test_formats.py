"""One resource, three formats: what goes in comes out, and others can read it."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import xmlschema
from fastapi import APIRouter, FastAPI
from fastapi.responses import Response
from google.protobuf.json_format import MessageToDict
from grpc_tools import protoc
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.testclient import TestClient

from sfumato.agents.api.routes import RESOURCES
from sfumato.agents.web import problems, protobuf_form, xml_form
from sfumato.agents.web.formats import JSON, PROTOBUF, RESOURCE, XML, Negotiated, choose, chosen, decode, encode
from sfumato.agents.web.shapes import Record
from sfumato.schemas.audit import AuditEvent
from sfumato.schemas.find import Find
from sfumato.schemas.part import Part
from sfumato.schemas.policy import Policy
from sfumato.schemas.suspension import Suspension
from tests.documents import documents

NAMESPACE = xml_form.NAMESPACE
ANY = hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Square(Part):
    kind: Literal["square"]
    side: float


class Circle(Part):
    kind: Literal["circle"]
    radius: float
    inner: Circle | None = None


class Drawing(Part):
    """What the shared models do not have: choices, a model that holds itself, tables of arrays."""

    shapes: tuple[Annotated[Square | Circle, Field(discriminator="kind")], ...] = ()
    best: Annotated[Square | Circle, Field(discriminator="kind")] | None = None
    layers: Annotated[dict[str, list[int]], Field(default_factory=dict)]
    notes: dict[str, str] | None = None
    tags: tuple[str, ...] = ("x",)


MODELS = tuple(dict.fromkeys((*RESOURCES, Policy, AuditEvent, Find, Suspension, Drawing)))
EXAMPLE = Policy.model_validate(
    {
        "camera": "north",
        "version": 3,
        "controller": "City <of> Delft & others",
        "purpose": "traffic\r\nand\x00safety",
        "lawful_basis": "public_task",
        "dpia": "2026/7",
        "retention_hours": 24,
        "targets": {"face": {"mask": "mosaic"}, "person": {}},
        "zones": [{"name": "door", "polygon": [[0, 0], [1, 0], [1, 1]], "rule": "never_mask", "spares": []}],
    }
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@pytest.mark.parametrize("kind", RESOURCE)
@ANY
@given(data=st.data())
def test_what_goes_in_comes_out(model, kind, data):
    document = data.draw(documents(Record(model)))
    form = encode(model, document, kind)
    assert form == encode(model, json.loads(json.dumps(document)), kind)
    assert decode(model, form, kind) == document


@pytest.mark.parametrize("kind", RESOURCE)
def test_validation_sees_the_same_in_every_format(kind):
    document = json.loads(EXAMPLE.model_dump_json())
    assert Policy.model_validate(decode(Policy, encode(Policy, document, kind), kind)) == EXAMPLE
    smallest = {key: document[key] for key in ("camera", "version", "controller", "purpose", "lawful_basis", "dpia")}
    smallest |= {"retention_hours": 1, "targets": {"face": {}}, "zones": [{**document["zones"][0]}]}
    del smallest["zones"][0]["spares"]
    expected = Policy.model_validate(smallest)
    assert Policy.model_validate(decode(Policy, encode(Policy, smallest, kind), kind)) == expected


SCHEMA = xmlschema.XMLSchema(xml_form.xsd(MODELS))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@ANY
@given(data=st.data())
def test_xml_is_valid_by_the_published_schema(model, data):
    SCHEMA.validate(encode(model, data.draw(documents(Record(model))), XML).decode())


def test_the_schema_refuses_what_it_should():
    text = encode(Policy, json.loads(EXAMPLE.model_dump_json()), XML).decode()
    for wrong in (text.replace("<version>3", "<version>x"), text.replace("camera>", "kamera>")):
        assert not SCHEMA.is_valid(wrong)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The published ``.proto`` as protoc makes it, in a pool of its own."""
    folder = tmp_path_factory.mktemp("proto")
    (folder / "independent_api.proto").write_text(protobuf_form.Protobuf(MODELS, protobuf_form.kept_numbers()).proto())
    assert protoc.main(["protoc", f"-I{folder}", f"--python_out={folder}", "independent_api.proto"]) == 0
    spec = importlib.util.spec_from_file_location("independent_api_pb2", folder / "independent_api_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("independent_api_pb2", None)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@ANY
@given(data=st.data())
def test_protoc_reads_and_writes_the_same_bytes(compiled, model, data):
    form = encode(model, data.draw(documents(Record(model))), PROTOBUF)
    message = getattr(compiled, Record(model).name).FromString(form)
    assert message.SerializeToString(deterministic=True) == form


def test_a_decoder_made_by_protoc_sees_the_policy(compiled):
    form = encode(Policy, json.loads(EXAMPLE.model_dump_json()), PROTOBUF)
    seen = MessageToDict(compiled.Policy.FromString(form), preserving_proto_field_name=True)
    assert (seen["camera"], seen["version"], seen["purpose"]) == ("north", "3", "traffic\r\nand\x00safety")
    assert seen["targets"]["face"]["mask"] == "mosaic"
    assert seen["zones"][0]["polygon"][1] == {"items": [1.0, 0.0]}


def test_numbers_never_change():
    """Bytes of the first version are read as they were meant, what came later as null; a number that moves breaks every
    client."""
    kept = json.loads((Path(__file__).parent / "protobuf_v1.json").read_text())
    for model in (Policy, AuditEvent):
        first = kept[model.__name__]
        read = decode(model, bytes.fromhex(first["hex"]), PROTOBUF)
        later = dict.fromkeys(read.keys() - first["document"].keys())
        assert read == first["document"] | later
    known = protobuf_form.kept_numbers()
    for name, fields in known.items():
        assert len(set(fields.values())) == len(fields), f"{name}: a number is used twice"


def test_a_new_field_gets_the_next_number_and_an_old_one_keeps_its_own():
    class Small(BaseModel):
        new: int = 0
        kept: int = 0

    numbers = protobuf_form.number({"Small": {"kept": 1, "gone": 2}}, [Small])
    assert numbers == {"Small": {"kept": 1, "gone": 2, "new": 3}}
    assert "reserved 2;" in protobuf_form.Protobuf([Small], numbers).proto()


def test_what_is_published_is_up_to_date():
    published = runpy.run_path(str(Path(__file__).parents[1] / "ops" / "schemas.py"))["published"]
    stale = [path.name for path, text in published().items() if path.read_text() != text]
    assert stale == [], "run `make schemas`"


BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<Policy xmlns="urn:sfumato:api:v1"><camera>&b;</camera></Policy>"""
EXTERNAL = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<Policy xmlns="urn:sfumato:api:v1"><camera>&a;</camera></Policy>"""


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        (XML, BOMB, "DOCTYPE"),
        (XML, EXTERNAL, "DOCTYPE"),
        (XML, "<!DOCTYPE x><Policy/>", "DOCTYPE"),
        (XML, "<Policy>", "not well-formed at line 1"),
        (XML, "<Policy/>", "outermost element must be Policy"),
        (XML, f'<Policy xmlns="{NAMESPACE}" a="b"/>', "attributes"),
        (XML, f'<Policy xmlns="{NAMESPACE}">text</Policy>', "text between elements"),
        (XML, f'<Policy xmlns="{NAMESPACE}"><dpia/><dpia/></Policy>', "Policy.dpia: given twice"),
        (XML, f'<Policy xmlns="{NAMESPACE}"><dpia><b/></dpia></Policy>', "Policy.dpia: holds elements"),
        (XML, f'<Policy xmlns="{NAMESPACE}"><dpia encoding="json">x</dpia></Policy>', "not a JSON string"),
        (XML, f'<Policy xmlns="{NAMESPACE}"><x xmlns="urn:x"/></Policy>', "outside the namespace"),
        (XML, f'<Policy xmlns="{NAMESPACE}"><zones><zone/></zones></Policy>', "wants item elements"),
        (XML, f'<Policy xmlns="{NAMESPACE}"><targets><entry/></targets></Policy>', "holds key and value"),
        (PROTOBUF, "\x07\x07", "not a message sfumato.api.v1.Policy"),
        (JSON, "{", "not JSON"),
        (JSON, '{"hold": NaN}', "not JSON"),
        (JSON, "[" * 100_000, "not JSON"),
    ],
)
def test_a_body_that_is_not_its_format_is_refused(kind, body, said):
    response = client().put("/policies/north", content=body.encode(), headers={"Content-Type": kind})
    assert (response.status_code, said in response.json()["detail"]) == (400, True), response.text
    assert "root:" not in response.text


def test_unknown_fields_are_errors_in_every_format():
    xml = f'<Policy xmlns="{NAMESPACE}"><kamera>x</kamera></Policy>'
    for kind, body, name in (
        (XML, xml, "kamera"),
        (PROTOBUF, b"\xf8\x07\x01", "#127"),
        (JSON, '{"kamera": 1}', "kamera"),
    ):
        response = client().put("/policies/north", content=body, headers={"Content-Type": kind})
        assert response.status_code == 422
        assert name in response.text


def client() -> TestClient:
    router = APIRouter(route_class=Negotiated)

    @router.put("/policies/{id}")
    def put(id: str, policy: Policy) -> Policy:
        return policy

    @router.get("/picture", response_model=Policy, responses={200: {"content": {"image/png": {}}}})
    def picture(request: Request) -> object:
        return Response(b"PNG", media_type="image/png") if chosen(request) == "image/png" else EXAMPLE

    app = FastAPI()
    app.include_router(router)
    problems.add_handlers(app)
    return TestClient(app)


def test_accept_chooses_and_content_type_is_read():
    document = json.loads(EXAMPLE.model_dump_json())
    for sent in (*RESOURCE, "text/xml; charset=utf-8", "application/protobuf"):
        body = encode(
            Policy, document, {"text/xml; charset=utf-8": XML, "application/protobuf": PROTOBUF}.get(sent, sent)
        )
        for wanted in RESOURCE:
            response = client().put("/policies/x", content=body, headers={"Content-Type": sent, "Accept": wanted})
            assert response.status_code == 200, response.text
            assert response.headers["content-type"] == wanted
            assert response.headers["content-length"] == str(len(response.content))
            assert "Accept" in response.headers["vary"]
            assert decode(Policy, response.content, wanted) == document


def test_a_picture_or_a_resource_as_asked():
    assert client().get("/picture", headers={"Accept": "image/*"}).content == b"PNG"
    assert client().get("/picture", headers={"Accept": "image/png;q=0.2, application/*"}).json()["camera"] == "north"


@pytest.mark.parametrize("method", ["accept", "content-type"])
def test_other_types_are_refused_with_those_that_are_there(method):
    headers = {"Content-Type": JSON} | ({"Accept": "text/html"} if method == "accept" else {"Content-Type": "text/csv"})
    response = client().put("/policies/x", content=EXAMPLE.model_dump_json(), headers=headers)
    assert response.status_code == (406 if method == "accept" else 415)
    assert re.search("application/json, application/xml, application/x-protobuf", response.json()["detail"])


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/xml", XML),
        ("text/xml", XML),
        ("application/protobuf", PROTOBUF),
        ("application/json;q=0.5, application/xml;q=0.9", XML),
        ("application/json;q=0, */*", XML),
        ("application/*;q=0.3, application/json;q=0.2", XML),
        ("APPLICATION/XML; charset=utf-8", XML),
        ("application/xml;q=x, application/json;q=0.1", JSON),
        ("application/json;q=0", None),
        ("image/png", None),
    ],
)
def test_accept_by_quality_and_specificity(accept, expected):
    assert choose(accept, RESOURCE) == expected


@pytest.mark.parametrize("annotation", [int | str, dict[str, object], tuple[int, str], bytes])
def test_what_has_no_form_is_an_error_that_names_the_field(annotation):
    model = type("Odd", (BaseModel,), {"__annotations__": {"field": annotation}})
    with pytest.raises(TypeError, match=r"Odd\.field"):
        _ = Record(model).fields
