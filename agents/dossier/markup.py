"""Pages in Markdown and, made from that, in HTML. What is put in is plain text: nothing of it is ever markup."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt

SPECIAL = re.compile(r"[\\`*\[\]<>|&~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""What means something to Markdown within a line."""
UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of what a reader does not see, and what could turn the direction of a line."""
JUDGE, MISSING = "To be judged by a person", "Missing"
STYLE = """
body { font: 11pt/1.45 system-ui, sans-serif; color: #111; background: #fff; max-width: 60rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.3rem; margin-top: 2.2rem; border-bottom: 1px solid #999; } h3 { font-size: 1.05rem; margin-top: 1.6rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; margin: 0.8rem 0; }
th, td { border: 1px solid #bbb; padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; min-width: 4.5rem; }
th { background: #eee; overflow-wrap: normal; } thead { display: table-header-group; } tr { break-inside: avoid; }
blockquote { margin: 0.8rem 0; padding: 0.1rem 0.9rem; border-left: 0.4rem solid #b45309; background: #fff4e5; break-inside: avoid; }
td strong { color: #8a3b00; } h2, h3 { break-after: avoid; }
@media print { body { margin: 0; max-width: none; padding: 0; font-size: 9.5pt; } @page { margin: 18mm; } }
"""  # noqa: E501
DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}</body>
</html>
"""


class Lack(str):
    """A cell or item that is not there; says which. Shown so that it is seen, and listed at the top."""

    __slots__ = ()


def plain(value: object) -> str:
    """A value as one line of Markdown that shows exactly its text; what is invisible is shown as U+FFFD."""
    seen = "".join(
        " " if letter.isspace() else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in UNSEEN else letter
        for letter in str(value)
    )
    return SPECIAL.sub(r"\\\g<0>", " ".join(seen.split()))


class Page:
    """Written from top to bottom. ``judgements`` and ``lacking`` are listed after the introduction."""

    def __init__(self, title: str, *introduction: str) -> None:
        self.title, self.introduction = title, introduction
        self.judgements: list[str] = []
        self.lacking: list[str] = []
        self._blocks: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        self._blocks.append(f"{'#' * level} {plain(text)}")

    def paragraph(self, text: str) -> None:
        self._blocks.append(_lead(plain(text)))

    def judge(self, text: str) -> None:
        """What software cannot answer."""
        self.judgements.append(text)
        self._blocks.append(f"> **{JUDGE}:** {plain(text)}")

    def missing(self, text: str) -> None:
        self.lacking.append(text)
        self._blocks.append(f"> **{MISSING}:** {plain(text)}")

    def items(self, items: Iterable[object]) -> None:
        self._blocks.append("\n".join(f"- {_lead(self._cell(item))}" for item in items))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        head = [[plain(name) for name in columns], ["---"] * len(columns)]
        body = [[self._cell(cell) for cell in row] for row in rows]
        self._blocks.append("\n".join(f"| {' | '.join(line)} |" for line in [*head, *body]))

    def markdown(self) -> str:
        front = [f"# {plain(self.title)}", *(_lead(plain(text)) for text in self.introduction)]
        for title, texts in (("What is missing", self.lacking), (JUDGE, self.judgements)):
            found = list(dict.fromkeys(texts))
            front.append(f"## {title}: {len(found)}")
            front.append("\n".join(f"- {_lead(plain(text))}" for text in found) or "Nothing.")
        return "\n\n".join([*front, *self._blocks]) + "\n"

    def html(self) -> str:
        """One file without scripts, pictures or anything fetched."""
        body = MarkdownIt("commonmark", {"html": False}).enable("table").render(self.markdown())
        return DOCUMENT.format(title=html.escape(self.title), style=STYLE, body=body)

    def _cell(self, cell: object) -> str:
        if isinstance(cell, Lack):
            self.lacking.append(str(cell))
            return f"**{MISSING}**"
        return plain(cell) or "-"


def _lead(line: str) -> str:
    """A line whose first letters would make it a list, a heading or a rule."""
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", line)
