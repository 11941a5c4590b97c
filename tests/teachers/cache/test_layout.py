"""Records become bytes and come back: exactly in 32 bits, within bounds in fewer, in as many bytes as promised."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.teachers.cache import coding
from alignkit.teachers.cache.coding import Bits
from alignkit.teachers.cache.layout import LIMIT, Layout
from alignkit.teachers.cache.record import Kind, Record, drawn, top_k

V = 300


def record_of(kind: Kind, positions: int, entries: int, seed: int) -> Record:
    generator = torch.Generator().manual_seed(seed)
    whole = (2 * torch.randn(positions, V, generator=generator)).log_softmax(-1)
    if kind == "top-k":
        return top_k(whole, entries)
    return drawn(whole, np.random.default_rng(seed).random((positions, entries)))


def layout_of(kind: Kind, entries: int, bits: Bits) -> Layout:
    return Layout(kind=kind, entries=entries, bits=bits, vocabulary=V, temperature=1.0)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["top-k", "sampled"]),
    st.sampled_from([8, 16, 32]),
    st.integers(1, 40),
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_there_and_back(kind: Kind, bits: Bits, entries: int, rows: list[int]) -> None:
    """Several rows encoded apart and decoded together."""
    layout = layout_of(kind, entries, bits)
    records = [record_of(kind, positions, entries, seed) for seed, positions in enumerate(rows)]
    back = layout.decoded([layout.encoded(record) for record in records])
    at = 0
    for record in records:
        width = record.ids.shape[1]
        part = back.take(slice(at, at + len(record)))
        at += len(record)
        present = np.isfinite(record.log_probs)
        assert (part.ids[:, :width][present] == record.ids[present]).all()
        assert not np.isfinite(part.log_probs[:, width:]).any()
        bound = coding.error_bound(bits, coding.spans(record.log_probs, present) if bits == 8 else None)
        # Entries and tail are made to sum to 1 again, which doubles the error at most.
        worst = 2 * np.broadcast_to(bound, (len(record),)) + (coding.STEP_16 if bits < 32 else 0)
        given, found = np.where(present, record.log_probs, 0), np.where(present, part.log_probs[:, :width], 0)
        off = np.abs(found.astype(np.float64) - given).max(-1)
        assert (off <= worst).all()
        if kind == "sampled":
            assert part.draws is not None and record.draws is not None
            assert (part.draws[:, :width] == record.draws).all() and not part.draws[:, width:].any()
        elif bits == 32:
            assert part.log_tail is not None and record.log_tail is not None
            assert part.log_tail.tobytes() == record.log_tail.tobytes()
            assert part.log_probs.tobytes() == record.log_probs.tobytes()
    assert at == len(back)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_comes_back_is_a_distribution(bits: Bits) -> None:
    layout = layout_of("top-k", 20, bits)
    back = layout.decoded([layout.encoded(record_of("top-k", 50, 20, 0))])
    assert back.log_tail is not None
    total = np.exp(back.log_probs.astype(np.float64)).sum(-1) + np.exp(back.log_tail.astype(np.float64))
    assert total == pytest.approx(np.ones(50), abs=1e-6)


@pytest.mark.parametrize("kind", ["top-k", "sampled"])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_bytes_are_those_promised(kind: Kind, bits: Bits) -> None:
    layout = layout_of(kind, 30, bits)
    arrays = layout.encoded(record_of(kind, 100, 30, 0))
    real = sum(values.nbytes for values in arrays.values())
    assert real == 100 * layout.most_bytes if kind == "top-k" else real < 100 * layout.most_bytes
    if kind == "sampled":
        assert real == 100 * layout.fixed_bytes + len(arrays["ids"]) * layout.entry_bytes


def test_the_recipes_defaults_fit_the_limit_at_any_vocabulary() -> None:
    for vocabulary in (32_000, 65_536, 151_936, 262_144):
        for kind, entries in (("top-k", 50), ("sampled", 48)):
            layout = Layout(kind=kind, entries=entries, bits=16, vocabulary=vocabulary, temperature=1.0)  # type: ignore[arg-type]
            assert layout.most_bytes <= LIMIT - 10  # room for what a row of three positions takes


def test_no_positions() -> None:
    for kind in ("top-k", "sampled"):
        assert len(layout_of(kind, 5, 16).nothing().targets(1.0)) == 0  # type: ignore[arg-type]


def test_more_entries_than_tokens() -> None:
    with pytest.raises(ValueError, match="301 entries of a vocabulary of 300"):
        layout_of("top-k", 301, 16)
