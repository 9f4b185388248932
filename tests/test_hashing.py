import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retell.hashing import digest, digest_of_all, file_digest, seed_of

LEAVES = st.none() | st.booleans() | st.integers() | st.text()
PARTS = st.lists(
    st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8), max_size=4
)


def shape(value: object) -> object:
    """The value with its types spelled out, since 1 == True in Python."""
    if isinstance(value, list):
        return [shape(part) for part in value]
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    return (type(value).__name__, value)


@given(PARTS, PARTS)
def test_digests_are_equal_exactly_where_the_parts_are(first: list[object], second: list[object]) -> None:
    assert (digest(*first) == digest(*second)) == (shape(first) == shape(second))


def test_where_parts_are_divided_matters() -> None:
    ways = [("ab",), ("a", "b"), (["a", "b"],), (["a"], "b"), ("a", ["b"]), ("a,b",), ('a","b',), ()]
    assert len({digest(*way) for way in ways}) == len(ways)


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@given(PARTS)
def test_a_digest_has_128_bits_and_a_seed_63(parts: list[object]) -> None:
    assert len(bytes.fromhex(digest(*parts))) == 16
    assert 0 <= seed_of(*parts) < 2**63


def test_seeds_use_all_their_bits() -> None:
    seeds = [seed_of("a", number) for number in range(2000)]
    assert len(set(seeds)) == 2000
    for bit in range(63):
        assert 800 < sum(seed >> bit & 1 for seed in seeds) < 1200  # 9 standard deviations


def test_another_process_gives_the_same_digest_and_seed() -> None:
    parts = '("rewrite", 0, "höhe", {"b": [1, None], "a": 0.1}, True)'
    code = f"from retell.hashing import digest, seed_of; print(digest(*{parts}), seed_of(*{parts}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    here = ("rewrite", 0, "höhe", {"b": [1, None], "a": 0.1}, True)
    assert outputs == {f"{digest(*here)} {seed_of(*here)}\n".encode()}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_file_is_digested_whole_whatever_its_size(tmp_path: Path, size: int) -> None:
    content = bytes(number % 251 for number in range(size))
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_the_digest_of_many_depends_on_each_and_on_their_order() -> None:
    parts = [("a", 1), ("b", None), ("a", 1)]
    found = digest_of_all(iter(parts))
    assert found == digest_of_all(parts)
    for other in (parts[:2], parts[::-1][1:], [("a", 1), ("b", ""), ("a", 1)], [["a", 1, "b"], ("a", 1)], []):
        assert digest_of_all(other) != found
