"""The shape of a resource, read from its pydantic model: what XML, XSD, Protobuf and ``.proto`` are all made from.

A value here is what JSON makes of the model: objects, arrays, strings, numbers, booleans. What has no clear form in all
three formats (``Any``, unions without discriminator, arrays of nulls) is a TypeError that names the field.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from enum import Enum, StrEnum
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import AnyUrl, AwareDatetime, BaseModel, SecretStr
from pydantic.fields import FieldInfo


class Kind(StrEnum):
    """Of a single value."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    MOMENT = "moment"
    DAY = "day"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Single:
    """``names``: the only values, where it is an enumeration."""

    kind: Kind
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Many:
    """An array, a tuple or a set."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Table:
    """An object with any keys."""

    value: Shape


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several records, by the value of the field ``by``."""

    name: str
    by: str
    records: tuple[tuple[str, Record], ...]

    def record(self, value: object) -> tuple[str, Record]:
        wanted = value.get(self.by) if isinstance(value, dict) else None
        return next((name, record) for name, record in self.records if name == wanted)


@dataclass(frozen=True, slots=True)
class Field:
    """``nullable``: absent means null. ``empty``: absent means an empty array or table."""

    name: str
    shape: Shape
    required: bool
    nullable: bool
    empty: bool


class Record:
    """A model. ``fields`` are read when asked for: a model may hold itself."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.model = model
        self.name = record_name(model)

    @property
    def fields(self) -> tuple[Field, ...]:
        return _fields(self.model)

    @property
    def about(self) -> str:
        """The first sentence of the model's docstring."""
        own = self.model.__doc__ or ""
        return " ".join(own.split("\n\n")[0].split())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and other.model is self.model

    def __hash__(self) -> int:
        return hash(self.model)


Shape = Single | Many | Table | Choice | Record

SINGLES: dict[type, Kind] = {
    bool: Kind.BOOLEAN,
    int: Kind.INTEGER,
    float: Kind.NUMBER,
    datetime: Kind.MOMENT,
    AwareDatetime: Kind.MOMENT,
    date: Kind.DAY,
    time: Kind.TIME,
    str: Kind.TEXT,
    UUID: Kind.TEXT,
    timedelta: Kind.TEXT,
    AnyUrl: Kind.TEXT,
    SecretStr: Kind.TEXT,
}


def record_name(model: type[BaseModel]) -> str:
    """The model's name in XML and Protobuf."""
    return re.sub(r"\W", "", model.__name__).lstrip("_")


def records(roots: typing.Iterable[type[BaseModel]]) -> list[Record]:
    """Every record that these models hold, by name. TypeError where two have the same name."""
    found: dict[str, Record] = {}

    def visit(shape: Shape) -> None:
        for record in _within(shape):
            known = found.setdefault(record.name, record)
            if known.model is not record.model:
                raise TypeError(
                    f"two models are named {record.name}: in {record.model.__module__}, {known.model.__module__}"
                )
            if known is record:
                for field in record.fields:
                    visit(field.shape)

    for model in roots:
        visit(Record(model))
    return [found[name] for name in sorted(found)]


def _within(shape: Shape) -> Iterator[Record]:
    match shape:
        case Record():
            yield shape
        case Many(item):
            yield from _within(item)
        case Table(value):
            yield from _within(value)
        case Choice(records=options):
            for _, record in options:
                yield from _within(record)


@cache
def _fields(model: type[BaseModel]) -> tuple[Field, ...]:
    if model.model_computed_fields:
        raise TypeError(f"{model.__name__}: computed fields have no form in XML and Protobuf; make them fields")
    return tuple(_field(model, name, info) for name, info in model.model_fields.items())


def _field(model: type[BaseModel], name: str, info: FieldInfo) -> Field:
    where = f"{model.__name__}.{name}"
    annotation, nullable = _without_none(info.annotation)
    discriminator = info.discriminator if isinstance(info.discriminator, str) else None
    shape = _shape(annotation, where, discriminator)
    default = info.get_default(call_default_factory=True, validated_data={})
    if nullable and not info.is_required() and default is not None:
        raise TypeError(f"{where}: null and absent would differ; make None the default")
    empty = isinstance(shape, Many | Table) and not nullable and (info.is_required() or not default)
    return Field(
        name=info.serialization_alias or info.alias or name,
        shape=shape,
        required=info.is_required() and not nullable,
        nullable=nullable,
        empty=empty,
    )


def _without_none(annotation: Any) -> tuple[Any, bool]:
    annotation = _bare(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        others = [argument for argument in get_args(annotation) if argument is not type(None)]
        if len(others) < len(get_args(annotation)):
            return (others[0] if len(others) == 1 else Union[tuple(others)]), True  # noqa: UP007
    return annotation, False


def _bare(annotation: Any) -> tuple[Any, str | None]:
    """Without ``Annotated``; and the discriminator that it named."""
    discriminator = None
    while get_origin(annotation) is typing.Annotated:
        annotation, *metadata = get_args(annotation)
        for each in metadata:
            found = getattr(each, "discriminator", None)
            discriminator = found if isinstance(found, str) else discriminator
    return annotation, discriminator


def _shape(annotation: Any, where: str, discriminator: str | None = None) -> Shape:
    annotation, inner = _bare(annotation)
    discriminator = discriminator or inner
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if all(isinstance(each, type) and issubclass(each, Enum) for each in arguments):
            return _names([member for each in arguments for member in each], where)
        return _choice(arguments, where, discriminator)
    if origin is Literal:
        return _names(arguments, where)
    if origin in (list, tuple, set, frozenset):
        return _many(arguments, where)
    if origin is dict:
        return Table(_shape(arguments[1], where))
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return Record(annotation)
        if issubclass(annotation, Enum):
            return _names([member.value for member in annotation], where)
        for known, kind in SINGLES.items():
            if issubclass(annotation, known):
                return Single(kind)
    raise TypeError(f"{where}: {annotation} has no form in XML and Protobuf")


def _many(arguments: tuple[Any, ...], where: str) -> Many:
    items = {_shape(argument, where) for argument in arguments if argument is not Ellipsis}
    if len(items) != 1:
        raise TypeError(f"{where}: a tuple of different types has no form in XML and Protobuf")
    return Many(items.pop())


def _names(values: typing.Sequence[Any], where: str) -> Single:
    values = [value.value if isinstance(value, Enum) else value for value in values]
    if all(isinstance(value, bool) for value in values):
        return Single(Kind.BOOLEAN)
    if all(isinstance(value, int) for value in values):
        return Single(Kind.INTEGER)
    if not all(isinstance(value, str) for value in values):
        raise TypeError(f"{where}: names of different types have no form in XML and Protobuf")
    return Single(Kind.TEXT, tuple(values))


def _choice(arguments: tuple[Any, ...], where: str, discriminator: str | None) -> Choice:
    models = [_bare(argument)[0] for argument in arguments]
    if discriminator is None or not all(isinstance(m, type) and issubclass(m, BaseModel) for m in models):
        raise TypeError(f"{where}: a union wants models and a discriminator to have a form in XML and Protobuf")
    options = []
    for model in models:
        named = _shape(model.model_fields[discriminator].annotation, where)
        options += [(name, Record(model)) for name in (named.names if isinstance(named, Single) else ())]
    name = "".join(part[:1].upper() + part[1:] for part in re.split(r"[._]", where.lstrip("_")))
    return Choice(name, discriminator, tuple(options))
