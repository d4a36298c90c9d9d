"""Resources as XML, and the XSD that says so (``docs/api.xsd``).

An element per field, in the namespace :data:`NAMESPACE`; null is left out. An array is an element of ``item`` elements,
a table one of ``entry`` elements with ``key`` and ``value``, a choice holds one element named as its kind. Text with
characters that XML 1.0 cannot hold is a JSON string, in an element with ``encoding="json"``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.sax.saxutils import escape, quoteattr

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from pydantic import BaseModel

from sfumato.agents.web.shapes import Choice, Kind, Many, Record, Shape, Single, Table, records

NAMESPACE = "urn:sfumato:api:v1"
ENCODING = "encoding"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,30}")
_TYPES = {
    Kind.TEXT: "api:Text",
    Kind.INTEGER: "xs:integer",
    Kind.NUMBER: "xs:double",
    Kind.BOOLEAN: "xs:boolean",
    Kind.MOMENT: "xs:dateTime",
    Kind.DAY: "xs:date",
    Kind.TIME: "xs:time",
}


class XmlError(ValueError):
    """Text is not the XML that it should be; says what and where."""


def encode(record: Record, document: Any) -> bytes:
    """A JSON document of the record as XML, always the same."""
    inner = "".join(_encode_record(record, document))
    return f"{HEAD}<{record.name} xmlns={quoteattr(NAMESPACE)}>{inner}</{record.name}>\n".encode()


def _encode_record(record: Record, document: Any) -> Iterator[str]:
    for field in record.fields:
        value = document.get(field.name)
        if value is not None:
            yield from _encode(field.name, field.shape, value)


def _encode(tag: str, shape: Shape, value: Any) -> Iterator[str]:
    match shape:
        case Single():
            yield _encode_single(tag, value)
            return
        case Record():
            inner = _encode_record(shape, value)
        case Many(item):
            inner = (part for each in value for part in _encode("item", item, each))
        case Choice():
            name, record = shape.record(value)
            inner = _encode(name, record, value)
        case Table(item):
            inner = (part for key in sorted(value) for part in _encode_entry(key, item, value[key]))
    yield f"<{tag}>"
    yield from inner
    yield f"</{tag}>"


def _encode_entry(key: str, shape: Shape, value: Any) -> Iterator[str]:
    yield "<entry>"
    yield _encode_single("key", key)
    yield from _encode("value", shape, value)
    yield "</entry>"


def _encode_single(tag: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"<{tag}>{str(value).lower()}</{tag}>"
    if not isinstance(value, str):
        return f"<{tag}>{value!r}</{tag}>"
    if _UNFIT.search(value):
        return f'<{tag} {ENCODING}="json">{escape(json.dumps(value))}</{tag}>'
    return f"<{tag}>{escape(value, {chr(13): '&#13;'})}</{tag}>"


def decode(record: Record, data: bytes) -> Any:
    """The JSON document that XML holds; elements that the model does not know are in it as null, so that its
    validation names them. :class:`XmlError` where it is no such XML; DTDs, and with them entities, are refused."""
    try:
        root = fromstring(data, forbid_dtd=True)
    except DefusedXmlException:
        raise XmlError("a DOCTYPE or an entity; leave them out") from None
    except (ParseError, ValueError, LookupError) as error:
        where = " at line {}, column {}".format(*error.position) if isinstance(error, ParseError) else ""
        raise XmlError(f"not well-formed{where}") from None
    if root.tag != f"{{{NAMESPACE}}}{record.name}":
        raise XmlError(f"the outermost element must be {record.name} in the namespace {NAMESPACE}")
    return _decode(root, record, record.name)


def _decode(element: Element, shape: Shape, path: str) -> Any:
    if isinstance(shape, Single):
        return _decode_single(element, shape, path)
    if element.attrib:
        raise XmlError(f"{path}: has attributes; only text may have one, {ENCODING}")
    if any(text and text.strip() for text in (element.text, *(child.tail for child in element))):
        raise XmlError(f"{path}: text between elements")
    match shape:
        case Record():
            return _decode_record(element, shape, path)
        case Many(item):
            return [_decode(child, item, f"{path}.{n}") for n, child in enumerate(_children(element, "item", path))]
        case Table(item):
            return dict(_decode_entry(child, item, path) for child in _children(element, "entry", path))
        case Choice():
            return _decode_choice(element, shape, path)


def _decode_record(element: Element, record: Record, path: str) -> dict[str, Any]:
    shapes = {field.name: field.shape for field in record.fields}
    document: dict[str, Any] = {}
    for child in element:
        name = _name(child, path)
        if name in document:
            raise XmlError(f"{path}.{name}: given twice")
        document[name] = _decode(child, shapes[name], f"{path}.{name}") if name in shapes else None
    for field in record.fields:
        if field.nullable:
            document.setdefault(field.name, None)
        elif field.empty:
            document.setdefault(field.name, [] if isinstance(field.shape, Many) else {})
    return document


def _decode_entry(element: Element, shape: Shape, path: str) -> tuple[str, Any]:
    names = [_name(child, path) for child in element]
    if names != ["key", "value"]:
        raise XmlError(f"{path}: an entry holds key and value")
    key = str(_decode_single(element[0], Single(Kind.TEXT), f"{path}.key"))
    return key, _decode(element[1], shape, f"{path}.{key}")


def _decode_choice(element: Element, choice: Choice, path: str) -> Any:
    options = dict(choice.records)
    if len(element) != 1 or (name := _name(element[0], path)) not in options:
        raise XmlError(f"{path}: wants one of the elements {', '.join(options)}")
    return _decode(element[0], options[name], f"{path}.{name}")


def _decode_single(element: Element, shape: Single, path: str) -> Any:
    if len(element):
        raise XmlError(f"{path}: holds elements; it wants text")
    text, encoding = element.text or "", element.attrib.get(ENCODING)
    if element.attrib.keys() - {ENCODING} or encoding not in (None, "json"):
        raise XmlError(f'{path}: the only attribute is {ENCODING}="json"')
    if encoding is not None:
        try:
            decoded = json.loads(text)
        except (ValueError, RecursionError):
            decoded = None
        if not isinstance(decoded, str):
            raise XmlError(f"{path}: not a JSON string")
        return decoded
    return text if shape.kind is Kind.TEXT else _parse(text.strip(), shape.kind)


def _parse(text: str, kind: Kind) -> Any:
    """What does not fit stays text: validation then says so."""
    if kind is Kind.INTEGER and _INTEGER.fullmatch(text):
        return int(text)
    if kind is Kind.BOOLEAN:
        return {"true": True, "1": True, "false": False, "0": False}.get(text, text)
    if kind is Kind.NUMBER and text.isascii() and "_" not in text:
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _children(element: Element, name: str, path: str) -> Iterator[Element]:
    for child in element:
        if _name(child, path) != name:
            raise XmlError(f"{path}: holds {_name(child, path)}; it wants {name} elements")
        yield child


def _name(element: Element, path: str) -> str:
    namespace, _, name = str(element.tag).rpartition("}")
    if namespace != "{" + NAMESPACE:
        raise XmlError(f"{path}: an element outside the namespace {NAMESPACE}")
    return name[:100]


# XSD


def xsd(roots: Iterable[type[BaseModel]]) -> str:
    """The schema of these models: each may be the outermost element; fields come in any order."""
    known = records(roots)
    lines = [
        HEAD.strip(),
        "<!-- Generated by `make schemas` from the models. -->",
        f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:api="{NAMESPACE}"',
        f'    targetNamespace="{NAMESPACE}" elementFormDefault="qualified" version="1">',
        '  <xs:complexType name="Text">',
        "    <xs:simpleContent>",
        '      <xs:extension base="xs:string">',
        f'        <xs:attribute name="{ENCODING}" type="xs:string" fixed="json"/>',
        "      </xs:extension>",
        "    </xs:simpleContent>",
        "  </xs:complexType>",
    ]
    for record in known:
        lines.append(f'  <xs:element name="{record.name}" type="api:{record.name}"/>')
        lines.append(f'  <xs:complexType name="{record.name}">')
        lines.append("    <xs:all>")
        for field in record.fields:
            optional = "" if field.required else ' minOccurs="0"'
            lines += _declare(field.name, field.shape, optional, "      ")
        lines += ["    </xs:all>", "  </xs:complexType>"]
    return "\n".join([*lines, "</xs:schema>"]) + "\n"


def _declare(tag: str, shape: Shape, occurs: str, indent: str) -> list[str]:
    begin = f'{indent}<xs:element name="{tag}"'
    match shape:
        case Single(kind, ()):
            return [f'{begin} type="{_TYPES[kind]}"{occurs}/>']
        case Record():
            return [f'{begin} type="api:{shape.name}"{occurs}/>']
    deeper = indent + "  "
    match shape:
        case Single(_, names):
            values = [f"{deeper}    <xs:enumeration value={quoteattr(name)}/>" for name in names]
            inner = [f'{deeper}  <xs:restriction base="xs:string">', *values, f"{deeper}  </xs:restriction>"]
            return [f"{begin}{occurs}>", f"{deeper}<xs:simpleType>", *inner, f"{deeper}</xs:simpleType>", _end(indent)]
        case Many(item):
            inner = _declare("item", item, ' minOccurs="0" maxOccurs="unbounded"', deeper + "    ")
            return _complex(begin + occurs, indent, "sequence", inner)
        case Choice(records=options):
            inner = [line for name, record in options for line in _declare(name, record, "", deeper + "    ")]
            return _complex(begin + occurs, indent, "choice", inner)
        case Table(value):
            key = f'{deeper}        <xs:element name="key" type="api:Text"/>'
            entry = [key, *_declare("value", value, "", deeper + "        ")]
            head = f'{deeper}    <xs:element name="entry" minOccurs="0" maxOccurs="unbounded"'
            return _complex(begin + occurs, indent, "sequence", _complex(head, deeper + "    ", "sequence", entry))
    raise TypeError(type(shape).__name__)


def _complex(begin: str, indent: str, kind: str, inner: list[str]) -> list[str]:
    body = [f"{indent}  <xs:complexType>", f"{indent}    <xs:{kind}>", *inner, f"{indent}    </xs:{kind}>"]
    return [f"{begin}>", *body, f"{indent}  </xs:complexType>", _end(indent)]


def _end(indent: str) -> str:
    return f"{indent}</xs:element>"
