"""JSON, XML and Protobuf for the same resources, by content negotiation.

How an endpoint uses it: its router is made with ``APIRouter(route_class=Negotiated)``; it takes and returns pydantic
models and nothing else is needed::

    router = APIRouter(prefix="/v1/things", tags=["things"], route_class=Negotiated)

    @router.put("/{id}")
    def put(id: str, thing: Thing) -> Thing: ...

``Accept`` chooses the form of what is returned; 406 lists what there is. ``Content-Type`` says the form of the body;
415 lists what is read. FastAPI itself validates and documents: a body in XML or Protobuf reaches it as JSON would.

An endpoint that can also answer with something else (a picture, CSV) names it in ``responses={200: {"content": {…}}}``,
asks ``chosen(request)`` which of all was asked for, and returns a ``Response`` for its own types, a model for the three
(with ``response_model=`` where the annotation cannot say so). A body that is not a model (bytes) is left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from sfumato.agents.web import deprecation, xml_form
from sfumato.agents.web.protobuf_form import ProtobufError, protobuf
from sfumato.agents.web.shapes import Record
from sfumato.agents.web.xml_form import XmlError

JSON = "application/json"
XML = "application/xml"
PROTOBUF = "application/x-protobuf"
RESOURCE = (JSON, XML, PROTOBUF)
"""The forms of every resource, the preferred one first."""
ALIASES = {"text/xml": XML, "application/protobuf": PROTOBUF, "text/json": JSON}


MOST_MEMBERS = 2000
"""Of one object or array in a body; no resource takes so many, and naming what is wrong with each takes long."""

Settle = Callable[[Response | None], Coroutine[Any, Any, None]]
"""What a dependency may leave in ``request.state.settle``: told the answer in JSON, None where the endpoint failed."""


class _IdConvertor(StringConvertor):
    """``{name:id}`` in a path: without a colon, since what comes after one is what is to be done."""

    regex = "[^/:]+"


register_url_convertor("id", _IdConvertor())


class AlreadyAnswered(Exception):
    """Raised by a dependency: this is the answer; the endpoint is not called."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


class Negotiated(APIRoute):
    """A route whose resources are JSON, XML or Protobuf, as asked for."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["deprecated"] = options.get("deprecated") or deprecation.find(endpoint) is not None or None
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle, model, taken = super().get_route_handler(), returned(self), accepted(self)
        offered, ending = offers(self), deprecation.find(self.endpoint)

        async def negotiate(request: Request) -> Response:
            if offered:
                request.state.format = _choose_or_refuse(request, offered)
            if taken is not None:
                request = _Body(request, taken)
            response = await _answer(handle, request)
            if ending is not None:
                response.headers.update(ending.headers(request.path_params))
            if len(offered) > 1:
                response.headers.add_vary_header("Accept")
            if model is not None and response.headers.get("content-type") == JSON:
                return encoded(response, model, chosen(request))
            return response

        return negotiate


async def _answer(handle: Callable[[Request], Coroutine[Any, Any, Response]], request: Request) -> Response:
    try:
        response = await handle(request)
    except AlreadyAnswered as answered:
        return answered.response
    except Exception:
        await _settle(request, None)
        raise
    await _settle(request, response)
    return response


async def _settle(request: Request, response: Response | None) -> None:
    settle: Settle | None = getattr(request.state, "settle", None)
    if settle is not None:
        await settle(response)


def returned(route: APIRoute) -> type[BaseModel] | None:
    """The model that a route returns."""
    return _model(route.response_model)


def accepted(route: APIRoute) -> type[BaseModel] | None:
    """The model that a route takes as its body."""
    field = route.body_field
    return _model(field.field_info.annotation) if field is not None else None


def offers(route: APIRoute) -> tuple[str, ...]:
    """The media types among which ``Accept`` chooses at a route."""
    declared = [
        kind
        for status, answer in route.responses.items()
        if str(status)[0] == "2"
        for kind in answer.get("content", ())
    ]
    own = RESOURCE if returned(route) is not None else ()
    return tuple(dict.fromkeys((*own, *declared)))


def chosen(request: Request) -> str:
    """The media type that the caller asked for, of those that the route offers."""
    found: str = getattr(request.state, "format", JSON)
    return found


def choose(accept: str, offered: Iterable[str]) -> str | None:
    """The offered media type with the highest quality (RFC 9110, section 12.5.1), of equals the first; None: none."""
    ranges = _ranges(accept) or [("*/*", 1.0)]
    best, found = 0.0, None
    for offer in offered:
        quality = _quality(offer, ranges)
        if quality > best:
            best, found = quality, offer
    return found


def encoded(response: Response, model: type[BaseModel], kind: str) -> Response:
    """A JSON answer in another of the three forms."""
    if kind == JSON or not response.body:
        return response
    document = json.loads(bytes(response.body))
    response.body = encode(model, document, kind)
    response.headers["content-length"] = str(len(response.body))
    response.headers["content-type"] = kind
    return response


def encode(model: type[BaseModel], document: Any, kind: str) -> bytes:
    """What JSON holds of a model, in one of the three forms."""
    if kind == XML:
        return xml_form.encode(Record(model), document)
    if kind == PROTOBUF:
        return protobuf(model).encode(Record(model), document)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def decode(model: type[BaseModel], data: bytes, kind: str) -> Any:
    """What JSON would hold, of a body in one of the three forms; HTTPException 400 where it is not that form."""
    try:
        if kind == XML:
            return xml_form.decode(Record(model), data)
        if kind == PROTOBUF:
            return protobuf(model).decode(Record(model), data)
        return from_json(data, allow_inf_nan=False)
    except (XmlError, ProtobufError) as error:
        raise HTTPException(400, f"body: {error}") from None
    except ValueError as error:
        raise HTTPException(400, f"body: not JSON: {error}") from None


class _Body(Request):
    """A request whose body reaches FastAPI as JSON, whatever it was."""

    def __init__(self, request: Request, model: type[BaseModel]) -> None:
        super().__init__(request.scope, request.receive)
        self._model = model
        self._kind = ""

    @property
    def headers(self) -> Headers:
        """As they came, but for the content type: FastAPI asks whether the body is JSON."""
        if not self._kind:
            return super().headers
        shown = MutableHeaders(raw=list(self.scope["headers"]))
        shown["content-type"] = JSON
        return shown

    async def body(self) -> bytes:
        data = await super().body()
        if data and not self._kind:
            self._kind = _kind_of(self.headers)
        return data

    async def json(self) -> Any:
        document = decode(self._model, await self.body(), self._kind)
        if _crowded(document):
            raise HTTPException(
                422, f"body: an object or array of more than {MOST_MEMBERS} members; none takes so many"
            )
        return document


def _crowded(document: Any) -> bool:
    """Whether anything in it has more members than anything may."""
    left = [document]
    while left:
        each = left.pop()
        if isinstance(each, dict | list):
            if len(each) > MOST_MEMBERS:
                return True
            left += each.values() if isinstance(each, dict) else each
    return False


def _kind_of(headers: Headers) -> str:
    name = headers.get("content-type", "").partition(";")[0].strip().lower()
    kind = ALIASES.get(name, name)
    if kind not in RESOURCE:
        raise HTTPException(415, f"Content-Type: one of {', '.join(RESOURCE)}", {"Accept": ", ".join(RESOURCE)})
    return kind


def _choose_or_refuse(request: Request, offered: tuple[str, ...]) -> str:
    found = choose(",".join(request.headers.getlist("accept")), offered)
    if found is None:
        raise HTTPException(406, f"Accept: one of {', '.join(offered)}")
    return found


def _ranges(accept: str) -> list[tuple[str, float]]:
    """The media ranges of an ``Accept`` header and the quality of each; what is malformed counts for nothing."""
    found = []
    for part in accept.lower().split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        if not name:
            continue
        values = [p.partition("=")[2].strip() for p in parameters if p.partition("=")[0].strip() == "q"]
        try:
            quality = float(values[0]) if values else 1.0
        except ValueError:
            quality = 0.0
        found.append((ALIASES.get(name, name), quality if 0 <= quality <= 1 else 0.0))
    return found


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """By the most specific range that holds it."""
    for wanted in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        qualities = [quality for name, quality in ranges if name == wanted]
        if qualities:
            return max(qualities)
    return 0.0


def _model(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
