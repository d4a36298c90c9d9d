"""The Merkle tree of RFC 9162 against Certificate Transparency's reference vectors, and for all small sizes."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.agents.ledger.tree import EMPTY_ROOT, Range, Subtrees, consistent, cover, included, leaf_hash

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""Of the reference tests of Certificate Transparency."""
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}

SIZES = st.integers(0, 70)


def grown(size: int, begin: int = 0, leaf=lambda number: bytes([number])) -> Range:
    found = Range(begin)
    for number in range(begin, size):
        found.append(leaf_hash(leaf(number)))
    return found


def recursive(leaves: list[bytes]) -> bytes:
    """MTH exactly as RFC 9162, 2.1.1 defines it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + recursive(leaves[:split]) + recursive(leaves[split:])).digest()


def hexes(path: list[bytes]) -> list[str]:
    return [hash.hex() for hash in path]


def test_the_reference_roots_and_proofs():
    tree = Subtrees([grown(8, leaf=LEAVES.__getitem__)])
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [grown(size, leaf=LEAVES.__getitem__).root().hex() for size in range(1, 9)] == ROOTS
    tree = Subtrees([Range(number, number + 1, [leaf_hash(leaf)]) for number, leaf in enumerate(LEAVES)])
    for (index, size), path in INCLUSION.items():
        assert hexes(tree.inclusion(index, size)) == path
        root = bytes.fromhex(ROOTS[size - 1])
        assert included(leaf_hash(LEAVES[index]), index, size, [bytes.fromhex(hash) for hash in path], root)
    for (first, second), path in CONSISTENCY.items():
        assert hexes(tree.consistency(first, second)) == path
        roots = [bytes.fromhex(ROOTS[size - 1]) for size in (first, second)]
        assert consistent(first, second, [bytes.fromhex(hash) for hash in path], *roots)


@pytest.mark.parametrize("size", range(40))
def test_roots_are_as_the_rfc_defines_them(size):
    assert grown(size).root() == recursive([bytes([number]) for number in range(size)])


@given(st.lists(SIZES, min_size=1, max_size=6))
@settings(deadline=None)
def test_segments_join_to_the_whole_wherever_they_are_cut(cuts):
    cuts = [0, *sorted(cuts)]
    joined = Range()
    for begin, end in itertools.pairwise(cuts):
        segment = grown(end, begin)
        assert len(segment.hashes) == len(list(cover(begin, end)))
        joined = joined.joined(Range(begin, end, segment.hashes))
    assert (joined.end, joined.hashes, joined.root()) == (cuts[-1], grown(cuts[-1]).hashes, grown(cuts[-1]).root())


@given(st.integers(1, 70), st.data())
@settings(deadline=None)
def test_every_proof_convinces_and_no_other_does(size, data):
    index, cut = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    # Known are the leaves of one part, and of the others the subtrees alone.
    alone = [Range(index, index + 1, [leaf_hash(bytes([index]))])]
    known = Subtrees([grown(index), *alone, grown(size, index + 1)])
    path, root = known.inclusion(index, size), grown(size).root()
    assert included(leaf_hash(bytes([index])), index, size, path, root)
    assert not included(leaf_hash(b"other"), index, size, path, root)
    assert not included(leaf_hash(bytes([index])), index, size, path, leaf_hash(b"other"))
    assert not included(leaf_hash(bytes([index])), index, size, [*path, root], root)
    assert not included(leaf_hash(bytes([index])), size, size, path, root)
    if path:
        spoilt = data.draw(st.integers(0, len(path) - 1))
        wrong = [leaf_hash(b"other") if number == spoilt else hash for number, hash in enumerate(path)]
        assert not included(leaf_hash(bytes([index])), index, size, wrong, root)
        assert not included(leaf_hash(bytes([index])), index, size, path[:-1], root)
    if cut > 0:
        proof, before = Subtrees([grown(cut), grown(size, cut)]).consistency(cut, size), grown(cut).root()
        assert consistent(cut, size, proof, before, root)
        assert not consistent(cut, size, proof, leaf_hash(b"other"), root)
        assert not consistent(cut, size, proof, before, leaf_hash(b"other"))
        assert not consistent(cut, size, [*proof, root], before, root)


def test_what_is_not_known_is_said():
    segment = Subtrees([grown(5), grown(9, 7)])
    with pytest.raises(KeyError, match=r"leaf \d"):
        segment.consistency(5, 9)
    with pytest.raises(ValueError, match="missing or given twice"):
        grown(5).joined(grown(9, 7))
    with pytest.raises(ValueError, match="want 2 hashes"):
        Range(0, 3, [EMPTY_ROOT])
    with pytest.raises(ValueError, match="no leaf 3"):
        segment.inclusion(3, 3)
    with pytest.raises(ValueError, match="no beginning"):
        segment.consistency(0, 3)
    with pytest.raises(ValueError, match="only leaves from the first"):
        grown(9, 7).root()
    assert not consistent(0, 3, [], EMPTY_ROOT, EMPTY_ROOT)
