"""One request, one key, however it was spelled."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import RequestError
from alignkit.runs.key import canonical, run_key

VALUES: dict[str, Any] = {"optimizer": {"learning_rate": 1e-4, "beta1": 0.9}, "adapter": {"rank": 16, "layers": None}}
INPUTS = {"model.weights": "ab" * 32}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


def test_spellings_of_a_number_agree() -> None:
    assert canonical(1e-4) == canonical(0.0001) == canonical(float("1E-4"))
    assert canonical({"epochs": 1}) == canonical({"epochs": 1.0})
    assert canonical(-0.0) == canonical(0)
    assert canonical(1e22) == canonical(10**22)


def test_true_is_not_one_and_text_is_not_a_number() -> None:
    assert len({canonical(value) for value in (True, 1, "1", "True", None, [1])}) == 6


@given(st.dictionaries(st.text(), trees, min_size=2))
def test_the_order_of_keys_does_not_matter(values: dict[str, Any]) -> None:
    backwards = dict(reversed(list(values.items())))
    assert run_key("lora", 1, values, INPUTS) == run_key("lora", 1, backwards, INPUTS)


def test_everything_that_decides_changes_the_key() -> None:
    changed = {
        run_key("lora", 1, VALUES, INPUTS),
        run_key("sft", 1, VALUES, INPUTS),
        run_key("lora", 2, VALUES, INPUTS),
        run_key("lora", 1, {**VALUES, "seed": 1}, INPUTS),
        run_key("lora", 1, {**VALUES, "optimizer": {"learning_rate": 1.0000000001e-4, "beta1": 0.9}}, INPUTS),
        run_key("lora", 1, VALUES, {"model.weights": "ac" * 32}),
        run_key("lora", 1, VALUES, {"teacher.weights": "ab" * 32}),
    }
    assert len(changed) == 7


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_by_name(value: float) -> None:
    with pytest.raises(RequestError, match=r"optimizer\.learning_rate: .* is no finite number"):
        run_key("lora", 1, {"optimizer": {"learning_rate": value}}, {})


def test_the_key_is_the_same_in_another_process() -> None:
    code = f"from alignkit.runs.key import run_key; print(run_key('lora', 1, {VALUES!r}, {INPUTS!r}))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == run_key("lora", 1, VALUES, INPUTS)
    assert len(there) == 64


def test_the_key_does_not_drift_between_releases() -> None:
    """A change here makes every run that people have another one: raise key.FORMAT and say so, or undo it."""
    assert run_key("lora", 1, VALUES, INPUTS)[:16] == "d4c0b23bc702bf8b"
