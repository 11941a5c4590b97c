"""A rollout on the disk and in parts."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from alignkit.errors import RunError
from alignkit.rollouts.rollout import VECTORS, Rollout
from tests.rollouts.making import random_answers


def full(groups: list[list[int]], *, number: int = 3) -> Rollout:
    answers = [
        replace(one, reward=0.1 * at, parts={"json": 0.1 * at}, problem=None if at else "json gave nan")
        for at, one in enumerate(random_answers(groups))
    ]
    answers[0] = replace(answers[0], reward=math.nan)
    rollout = Rollout.of(number, answers)
    torch.manual_seed(0)
    for name in VECTORS:
        setattr(rollout, name, torch.randn(int(rollout.tokens.sum())) / 3)
    return rollout


def test_it_comes_back_from_the_disk_to_the_last_bit(tmp_path: Path) -> None:
    rollout = full([[2, 3], [4, 0], [1, 1]])
    rollout.values = None
    rollout.save(tmp_path / "deep" / "rollout.safetensors")
    found = Rollout.load(tmp_path / "deep" / "rollout.safetensors")
    assert found.number == 3 and found.values is None
    for one, other in zip(found.answers, rollout.answers, strict=True):
        assert repr(one) == repr(other)  # NaN is not equal to itself
    assert torch.equal(found.tokens, rollout.tokens) and found.tokens.dtype == torch.int64
    for name in set(VECTORS) - {"values"}:
        one, other = getattr(found, name), getattr(rollout, name)
        assert torch.equal(one, other) and one.dtype == other.dtype
    nothing = Rollout.of(0, [])
    nothing.save(tmp_path / "nothing")
    assert Rollout.load(tmp_path / "nothing").answers == []


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "rollout.safetensors"
    with pytest.raises(RunError, match="cannot be read"):
        Rollout.load(file)
    full([[2, 3]]).save(file)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(RunError, match="cannot be read"):
        Rollout.load(file)


def test_numbers_of_some_answers() -> None:
    rollout = full([[2, 3], [4, 0], [1, 1]])
    values = torch.arange(11.0)
    assert rollout.pick(values, [1, 5]).tolist() == [2, 3, 4, 10]
    assert rollout.pick(values, [5, 3, 0]).tolist() == [10, 0, 1]
    assert rollout.pick(values, []).tolist() == []
    assert rollout.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert rollout.rewards[1:].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert math.isnan(rollout.rewards[0]) and len(rollout) == 6
    kl = rollout.kl
    assert kl is not None and rollout.policy is not None and rollout.reference is not None
    difference = rollout.policy - rollout.reference
    ends = [0, 2, 5, 9, 9, 10, 11]
    expected = [float(difference[a:b].sum()) for a, b in pairwise(ends)]
    assert kl.tolist() == pytest.approx(expected, abs=1e-6)
    rollout.reference = None
    assert rollout.kl is None
