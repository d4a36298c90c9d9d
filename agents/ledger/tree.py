"""The Merkle tree of RFC 9162, section 2.1: heads, inclusion and consistency proofs, from as few hashes as will do.

A range of leaves is kept as the hashes of the perfect subtrees that cover it. Ranges that follow each other join, so a
proof about a log of any length needs the ranges of its segments and the leaves of one segment, not every leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The head of a tree without leaves."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def cover(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The fewest perfect subtrees that hold exactly the leaves ``begin`` to ``end`` (exclusive), from left to right,
    as (level, index): a subtree of level ``l`` and index ``i`` begins at leaf ``i << l`` and holds ``1 << l``."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        if begin:
            level = min(level, (begin & -begin).bit_length() - 1)
        yield level, begin >> level
        begin += 1 << level


class Range:
    """The leaves ``begin`` to ``end`` (exclusive) of a log, as the hashes of the subtrees that cover them."""

    def __init__(self, begin: int = 0, end: int | None = None, hashes: Iterable[bytes] = ()) -> None:
        """Raises ValueError where there are not as many hashes of 32 bytes as :func:`cover` gives subtrees."""
        self.begin = begin
        self.end = begin if end is None else end
        if begin < 0 or self.end < begin:
            raise ValueError("a range of leaves wants 0 <= begin <= end")
        places, given = list(cover(begin, self.end)), list(hashes)
        if len(given) != len(places) or any(len(hash) != HASH_BYTES for hash in given):
            raise ValueError(f"the leaves {begin} to {self.end} want {len(places)} hashes of {HASH_BYTES} bytes")
        self._subtrees = [(level, hash) for (level, _), hash in zip(places, given, strict=True)]

    def __len__(self) -> int:
        return self.end - self.begin

    @property
    def hashes(self) -> tuple[bytes, ...]:
        return tuple(hash for _, hash in self._subtrees)

    def append(self, hash: bytes) -> None:
        """Add a leaf by its hash."""
        level, index = 0, self.end
        self.end += 1
        while index & 1 and self._subtrees and self._subtrees[-1][0] == level:  # its sibling
            hash = node_hash(self._subtrees.pop()[1], hash)
            level, index = level + 1, index >> 1
        self._subtrees.append((level, hash))

    def joined(self, following: Range) -> Range:
        """This range and the one that begins where it ends. Raises ValueError where that is another."""
        if following.begin != self.end:
            raise ValueError(f"leaves {self.end} to {following.begin} are missing or given twice")
        known = Subtrees((self, following))
        hashes = [known.subtree(level, index) for level, index in cover(self.begin, following.end)]
        return Range(self.begin, following.end, hashes)

    def root(self) -> bytes:
        """The head of the tree of these leaves, 32 bytes. Raises ValueError where they do not begin a log."""
        if self.begin:
            raise ValueError("only leaves from the first one on have a head")
        if not self._subtrees:
            return EMPTY_ROOT
        root = self._subtrees[-1][1]
        for _, hash in reversed(self._subtrees[:-1]):
            root = node_hash(hash, root)
        return root


class Subtrees:
    """What is known of a tree: the hashes that ranges of its leaves bring, and all that follow from them."""

    def __init__(self, ranges: Iterable[Range]) -> None:
        self._hashes: dict[tuple[int, int], bytes] = {}
        for range in ranges:
            self._hashes.update(zip(cover(range.begin, range.end), range.hashes, strict=True))

    def subtree(self, level: int, index: int) -> bytes:
        """The hash of a perfect subtree; KeyError where leaves below it are not known."""
        found = self._hashes.get((level, index))
        if found is None:
            if level == 0:
                raise KeyError(f"leaf {index}")
            left, right = self.subtree(level - 1, 2 * index), self.subtree(level - 1, 2 * index + 1)
            found = self._hashes[level, index] = node_hash(left, right)
        return found

    def _head(self, begin: int, end: int) -> bytes:
        """MTH(D[begin:end]) where ``begin`` is where such a subtree of the whole tree begins."""
        *left, last = (self.subtree(level, index) for level, index in cover(begin, end))
        for hash in reversed(left):
            last = node_hash(hash, last)
        return last

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The inclusion proof of leaf ``index`` in the tree of the first ``size`` leaves (RFC 9162, 2.1.3.1).
        Raises ValueError where there is no such leaf, KeyError where too little is known."""
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} in a tree of {size}")
        path, begin, end = [], 0, size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._head(middle, end))
                end = middle
            else:
                path.append(self._head(begin, middle))
                begin = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """The proof that the tree of the first ``first`` leaves is a prefix of that of ``second`` (RFC 9162, 2.1.4.1).
        Raises ValueError unless 0 < first <= second, KeyError where too little is known."""
        if not 0 < first <= second:
            raise ValueError(f"a tree of {first} leaves is no beginning of one of {second}")
        path: list[bytes] = []
        begin, end, whole = 0, second, True
        while first < end:
            middle = begin + _split(end - begin)
            if first <= middle:
                path.append(self._head(middle, end))
                end = middle
            else:
                path.append(self._head(begin, middle))
                begin, whole = middle, False
        if not whole:
            path.append(self._head(begin, end))
        return path[::-1]


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def included(hash: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that the leaf of this hash is the one of this index under the head (2.1.3.2)."""
    if not 0 <= index < size:
        return False
    number, last = index, size - 1
    for sibling in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            hash = node_hash(sibling, hash)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            hash = node_hash(hash, sibling)
        number, last = number >> 1, last >> 1
    return last == 0 and hash == root


def consistent(first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether the proof shows that nothing of the first tree was rewritten in the second (2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    hashes = list(path)
    if first & (first - 1) == 0:
        hashes.insert(0, first_root)
    if not hashes:
        return False
    number, last = first - 1, second - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old = new = hashes[0]
    for hash in hashes[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            old, new = node_hash(hash, old), node_hash(hash, new)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            new = node_hash(new, hash)
        number, last = number >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
