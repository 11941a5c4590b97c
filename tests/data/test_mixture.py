"""Mixtures: the shares asked for, no row over its cap, and the same rows whatever the order of a file."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.sections import DataSource
from alignkit.data.mixing.holdout import choose
from alignkit.data.mixing.mixture import Mixture, mix
from alignkit.errors import RequestError


def hashes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << 64, (count, 2), dtype=np.uint64)


def source(name="a.jsonl", **given):
    return DataSource(name=name, **given)


def mixed(parts: list[DataSource], sizes: list[int], rows: int | None = None) -> Mixture:
    return mix(parts, sizes, [hashes(size, number) for number, size in enumerate(sizes)], rows=rows)


def counts(mixture: Mixture, sources: int) -> list[int]:
    return np.bincount(mixture.which, minlength=sources).tolist()


def test_one_source_is_all_of_its_rows_in_order_and_nothing_is_said():
    mixture = mixed([source()], [7])
    assert mixture.index.tolist() == list(range(7))
    assert mixture.which.tolist() == [0] * 7
    assert mixture.lines == []
    assert (mixture.which.dtype, mixture.index.dtype) == (np.uint16, np.int64)


def test_a_limit_takes_the_smallest_hashes_and_is_said():
    own = hashes(800)
    mixture = mix([source("tickets.jsonl", limit=500)], [800], [own])
    as_bytes = [row.astype(">u8").tobytes() for row in own]
    assert mixture.index.tolist() == sorted(choose(as_bytes, 500))
    assert mixture.lines == ["tickets.jsonl: 500 of 800 rows (limit 500)"]


def test_repeats_give_whole_passes_and_then_the_smallest_hashes():
    own = hashes(10)
    seen = Counter(mix([source(repeat=2.5)], [10], [own]).index.tolist())
    third = {row for row, count in seen.items() if count == 3}
    assert sorted(seen.values()) == [2] * 5 + [3] * 5
    assert third == set(np.lexsort((own[:, 1], own[:, 0]))[:5].tolist())


@pytest.mark.parametrize(
    ("repeat", "rows", "expected"), [(0.7, 10, 7), (0.1, 30, 3), (2.5, 3, 7), (0.5, 1, 1), (1.0, 4, 4)]
)
def test_shares_of_rows_are_exact_decimals(repeat, rows, expected):
    assert len(mixed([source(repeat=repeat)], [rows])) == expected


def test_weights_make_the_largest_epoch_with_their_shares_and_say_what_stays_unused():
    parts = [source("a.jsonl", weight=3), source("b.jsonl", weight=1)]
    mixture = mixed(parts, [300, 500])
    assert counts(mixture, 2) == [300, 100]
    assert mixture.lines == [
        "a.jsonl: 300 rows, 75% of the mixture",
        "b.jsonl: 100 of 500 rows, 25% of the mixture; 400 rows more would be there, but the weights ask for no more",
    ]


def test_with_weights_a_source_is_used_again_up_to_its_repeat():
    parts = [source("a.jsonl", weight=1, repeat=4), source("b.jsonl", weight=1)]
    mixture = mixed(parts, [100, 300])
    assert counts(mixture, 2) == [300, 300]
    assert max(Counter(mixture.index[:300].tolist()).values()) == 3
    assert mixture.lines[0].startswith("a.jsonl: 100 rows 3 times = 300, 50% of the mixture; 100 rows more")


def test_fewer_rows_keep_the_shares():
    assert counts(mixed([source("a", weight=3), source("b", weight=1)], [300, 500], rows=40), 2) == [30, 10]
    assert counts(mixed([source("a"), source("b")], [300, 100], rows=40), 2) == [30, 10]
    assert counts(mixed([source("a", weight=9), source("b", weight=1)], [90, 90], rows=8), 2) == [7, 1]  # 7.2 and 0.8
    assert counts(mixed([source("a"), source("b")], [3, 1], rows=400), 2) == [3, 1]


def test_an_empty_source_and_a_missing_weight_are_refused_by_name():
    with pytest.raises(RequestError, match=r"data\.sources\[1\]\.name: empty\.jsonl has no row") as error:
        mixed([source("a.jsonl", weight=1), source("empty.jsonl")], [3, 0])
    assert "data.sources[1].weight: empty.jsonl has no weight" in str(error.value)
    with pytest.raises(ValueError, match="sizes"):
        mix([source()], [4], [hashes(3)])


@st.composite
def mixtures(draw):
    weighted = draw(st.booleans())
    number = draw(st.integers(1, 4))
    some = st.floats(0.1, 4, allow_nan=False).map(lambda x: round(x, 2))
    parts = [
        source(
            f"{n}.jsonl",
            weight=draw(some) if weighted else None,
            repeat=draw(some),
            limit=draw(st.none() | st.integers(1, 50)),
        )
        for n in range(number)
    ]
    return parts, [draw(st.integers(1, 60)) for _ in range(number)], draw(st.none() | st.integers(1, 100))


@given(mixtures())
@settings(max_examples=150, deadline=None)
def test_shares_are_right_within_a_row_and_no_row_stands_over_its_cap(case):
    parts, sizes, rows = case
    mixture = mixed(parts, sizes, rows)
    found = counts(mixture, len(parts))
    assert len(mixture) == len(mixture.index) == sum(found)
    assert rows is None or len(mixture) <= rows
    limited = [min(part.limit or size, size) for part, size in zip(parts, sizes, strict=True)]
    caps = [max(1, int(Fraction(str(p.repeat)) * n)) for p, n in zip(parts, limited, strict=True)]
    for number, part in enumerate(parts):
        seen = Counter(mixture.index[mixture.which == number].tolist())
        assert found[number] <= caps[number]
        assert len(seen) <= limited[number]
        assert max(seen.values(), default=0) <= -(-found[number] // limited[number])
        assert max(seen.values(), default=0) - min(seen.values(), default=0) <= 1
        assert set(seen) <= set(range(sizes[number]))
        total = sum(p.weight for p in parts) if part.weight else sum(caps)
        share = (part.weight or caps[number]) / total
        assert abs(found[number] - share * len(mixture)) < 1 + 1e-9
    if rows is None and parts[0].weight:  # no larger epoch would keep every source within its cap
        total = sum(p.weight for p in parts)
        assert any((len(mixture) + 1) * p.weight / total > cap - 1e-9 for p, cap in zip(parts, caps, strict=True))


@given(mixtures(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_order_of_a_source_does_not_matter(case, seed):
    parts, sizes, rows = case
    content = [hashes(size, number) for number, size in enumerate(sizes)]
    content[0][: sizes[0] // 3] = content[0][0]  # some say the same
    rng = np.random.default_rng(seed)
    shuffled = [own[rng.permutation(len(own))] for own in content]

    def chosen(given):
        plan = mix(parts, sizes, given, rows=rows)
        said = [(int(w), *given[w][i].tolist()) for w, i in zip(plan.which, plan.index, strict=True)]
        return Counter(said)

    assert chosen(content) == chosen(shuffled)
