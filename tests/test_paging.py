"""Lists in pages, and cursors that were tampered with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from sfumato.agents.web import paging


@given(names=st.sets(st.text(max_size=8)), limit=st.integers(1, 5))
def test_pages_together_are_the_list(names, limit):
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = paging.page(sorted(names), limit, cursor, str)
        assert len(page.items) <= limit
        seen += page.items
        cursor, pages = page.next, pages + 1
    assert seen == sorted(names)
    assert pages == max(1, -(-len(names) // limit))


@given(cursor=st.text(max_size=30))
def test_a_cursor_that_was_not_given_is_refused_and_named(cursor):
    with pytest.raises(HTTPException, match="cursor: not one that this resource gave") as refused:
        paging.read(cursor, paging.After)
    assert refused.value.status_code == 400
