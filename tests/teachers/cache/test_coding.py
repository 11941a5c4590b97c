"""Numbers in few bytes come back within the stated bounds, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from alignkit.teachers.cache import coding

nats = st.floats(-31.5, 0.0, width=32, allow_subnormal=False)


@given(st.lists(st.integers(0, (1 << 24) - 1), min_size=1, max_size=50))
def test_ids_come_back(ids: list[int]) -> None:
    width = coding.id_bytes(max(ids) + 1)
    packed = coding.pack_ids(np.array(ids), width)
    assert packed.shape == (len(ids), width)
    assert coding.unpack_ids(packed).tolist() == ids


@pytest.mark.parametrize(("vocabulary", "width"), [(49152, 2), (65536, 2), (65537, 3), (151936, 3), ((1 << 24) + 1, 4)])
def test_bytes_of_an_id(vocabulary: int, width: int) -> None:
    assert coding.id_bytes(vocabulary) == width
    last = np.array([vocabulary - 1])
    assert coding.unpack_ids(coding.pack_ids(last, width)).tolist() == [vocabulary - 1]


@given(arrays(np.float32, st.integers(1, 40), elements=nats))
def test_16_bits_are_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    back = coding.decode_16(coding.encode_16(values))
    assert np.abs(back.astype(np.float64) - values).max() <= float(coding.error_bound(16))


def test_the_bound_of_16_bits_is_reached() -> None:
    values = np.linspace(-31, 0, 100_001, dtype=np.float32)
    off = np.abs(coding.decode_16(coding.encode_16(values)).astype(np.float64) - values).max()
    assert 0.98 * float(coding.error_bound(16)) < off <= 0.00025


def test_what_is_not_there_and_what_is_all_but_impossible() -> None:
    values = np.array([-np.inf, -80.0, -32.0, 0.0], np.float32)
    assert coding.decode_16(coding.encode_16(values)).tolist() == [-np.inf, -32.0, -32.0, 0.0]


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=nats))
def test_8_bits_are_within_the_bound_of_their_position(values: np.ndarray) -> None:
    edges = coding.spans(values, np.ones(values.shape, bool))
    each = edges.repeat(values.shape[1], axis=0)
    back = coding.decode_8(coding.encode_8(values.ravel(), each), each).reshape(values.shape)
    off = np.abs(back.astype(np.float64) - values).max(-1)
    bound = coding.error_bound(8, edges)
    assert (off <= bound).all()
    spread = values.max(-1).astype(np.float64) - values.min(-1)
    assert (bound <= spread / 508 + 2 * coding.STEP_16).all()  # the bound itself is no excuse


def test_8_bits_without_an_entry() -> None:
    values = np.array([[-1.0, -np.inf], [-np.inf, -np.inf]], np.float32)
    edges = coding.spans(values, np.isfinite(values))
    each = edges.repeat(2, axis=0)
    back = coding.decode_8(coding.encode_8(values.ravel(), each), each).reshape(2, 2)
    assert back[0, 0] == pytest.approx(-1.0, abs=coding.STEP_16)
    assert np.isneginf(back[[0, 1, 1], [1, 0, 1]]).all()
