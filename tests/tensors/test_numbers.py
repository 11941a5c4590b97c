"""bfloat16 and its neighbours against torch's own conversions, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.tensors.numbers import BLOCK, FLOATS, WIDTHS, fits, from_float32, to_float32

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Ties, their neighbours, denormals, the largest numbers and what rounds beyond them, infinities, odd NaNs.
EDGES = [
    0x00000000, 0x80000000, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x00000001, 0x00008000, 0x007FFFFF,
    0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF808000,
    0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x38800000,
]  # fmt: skip


def floats(bits: list[int]) -> np.ndarray:
    return np.array(bits, dtype=np.uint32).view(np.float32)


def through_torch(values: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(values.copy()).to(TORCH[dtype])


def test_every_bfloat16_comes_out_as_it_went_in() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = to_float32(bits.tobytes(), "BF16")
    expected = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))
    back = np.frombuffer(from_float32(values, "BF16"), dtype=np.uint16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(back[~nan], bits[~nan])
    assert np.isnan(to_float32(back[nan].tobytes(), "BF16")).all()
    assert (back[nan] >> 15 == bits[nan] >> 15).all()


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=60, deadline=None)
@given(bits=st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 2**32 - 1)), max_size=80))
def test_writing_rounds_as_torch_does(dtype: str, bits: list[int]) -> None:
    values = floats(bits)
    expected = through_torch(values, dtype)
    data = from_float32(values, dtype)
    assert len(data) == len(bits) * WIDTHS[dtype]
    got = torch.frombuffer(bytearray(data), dtype=TORCH[dtype]) if bits else torch.empty(0, dtype=TORCH[dtype])
    assert torch.equal(torch.isnan(got), torch.isnan(expected))
    assert torch.equal(got[~torch.isnan(got)], expected[~torch.isnan(expected)])
    assert torch.equal(torch.signbit(got[~torch.isnan(got)]), torch.signbit(expected[~torch.isnan(expected)]))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_reading_is_what_torch_reads(dtype: str) -> None:
    tensor = torch.randn(1001, dtype=torch.float64).mul(100).to(TORCH[dtype])
    values = to_float32(tensor.numpy().tobytes(), dtype)
    np.testing.assert_array_equal(values, tensor.float().numpy())
    values[0] = 0.0  # the caller's to change


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("edge", EDGES)
def test_fits_says_whether_a_value_stays_finite(dtype: str, edge: int) -> None:
    for bits in (edge, edge ^ 0x80000000):
        values = floats([0x3F800000, bits, 0xBF800000])
        assert fits(values, dtype) == bool(torch.isfinite(through_torch(values, dtype)).all())
    assert fits(floats([]), dtype)


def test_blocks_join_without_a_seam() -> None:
    values = np.random.default_rng(1).standard_normal(2 * BLOCK + 3).astype(np.float32)
    values[BLOCK] = np.nan
    got = torch.frombuffer(bytearray(from_float32(values, "BF16")), dtype=torch.bfloat16)
    assert torch.isnan(got).nonzero().flatten().tolist() == [BLOCK]
    expected = through_torch(values, "BF16")
    assert torch.equal(got.nan_to_num(), expected.nan_to_num())


def test_integers_are_no_numbers_to_compute_with() -> None:
    with pytest.raises(KeyError):
        to_float32(b"\0" * 8, "I64")
    with pytest.raises(KeyError):
        from_float32(np.zeros(1, np.float32), "I64")
