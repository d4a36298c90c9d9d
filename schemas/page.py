"""A part of a list."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from sfumato.schemas.part import Part

T = TypeVar("T")


class Page(Part, Generic[T]):
    """Part of a list. ``next``: what to send as ``cursor`` for the part after it; null: this is the last."""

    items: tuple[T, ...]
    next: str | None = None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{getattr(params[0], '__name__', 'Any')}{cls.__name__}"
