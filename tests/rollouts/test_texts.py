"""rollouts.jsonl: what a person reads there, and what becomes of it when a run is cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.errors import RunError
from alignkit.rollouts.texts import RolloutTexts
from tests.rollouts.making import some_prompts
from tests.rollouts.test_rollout import full

SAMPLING = {"seed": 5, "temperature": 0.7, "top_p": 1.0, "max_new_tokens": 9}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_line_a_prompt(tmp_path: Path) -> None:
    prompts, rollout = some_prompts(tmp_path), full([[2, 3], [4, 1]])
    assert rollout.kl is not None
    texts = RolloutTexts(tmp_path / "rollouts.jsonl", every=1, sampling=SAMPLING)
    texts.keep(rollout, prompts, step=12)
    found = lines(texts.path)
    assert [(line["rollout"], line["step"], line["number"]) for line in found] == [(3, 12, 0), (3, 12, 1)]
    assert [line["prompt"] for line in found] == [prompts[0].prompt, prompts[1].prompt]
    assert [line["sampling"] for line in found] == [SAMPLING, SAMPLING]
    answers = [answer for line in found for answer in line["answers"]]
    assert [answer["text"] for answer in answers] == [one.text for one in rollout.answers]
    assert [answer["tokens"] for answer in answers] == [2, 3, 4, 1]
    assert [answer["finished"] for answer in answers] == [True, False, True, False]
    assert [answer["kl"] for answer in answers] == pytest.approx(rollout.kl.tolist())
    assert [answer["reward"] for answer in answers] == [None, *(one.reward for one in rollout.answers[1:])]
    assert [answer.get("problem") for answer in answers] == ["json gave nan", None, None, None]


def test_every_so_many_rollouts_and_a_run_that_goes_on(tmp_path: Path) -> None:
    prompts, file = some_prompts(tmp_path), tmp_path / "rollouts.jsonl"
    texts = RolloutTexts(file, every=2, sampling={})
    texts.truncate(0)
    assert not file.exists()
    for number in range(5):
        texts.keep(full([[2], [1]], number=number), prompts, step=number)
    whole = file.read_bytes()
    assert [line["rollout"] for line in lines(file)] == [0, 0, 2, 2, 4, 4]
    with file.open("ab") as killed:
        killed.write(b'{"rollout": 5, "te')
    RolloutTexts(file, every=2, sampling={}).truncate(4)
    assert [line["rollout"] for line in lines(file)] == [0, 0, 2, 2]
    texts.keep(full([[2], [1]], number=4), prompts, step=4)
    assert file.read_bytes() == whole
    none = RolloutTexts(tmp_path / "none.jsonl", every=0, sampling={})
    none.keep(full([[2]], number=0), prompts, step=0)
    assert not none.path.exists()


def test_parts_stand_there_where_there_are_several(tmp_path: Path) -> None:
    from dataclasses import replace

    rollout = full([[2, 3]])
    rollout.answers = [replace(one, parts={"json": 1.0, "length": 2.0}) for one in rollout.answers]
    rollout.reference = None
    texts = RolloutTexts(tmp_path / "rollouts.jsonl", every=1, sampling={})
    texts.keep(rollout, some_prompts(tmp_path), step=0)
    [line] = lines(texts.path)
    assert [answer["parts"] for answer in line["answers"]] == [{"json": 1.0, "length": 2.0}] * 2
    assert "kl" not in line["answers"][0]
    assert torch.is_tensor(rollout.policy)


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    texts = RolloutTexts(tmp_path, every=1, sampling={})  # a directory cannot be appended to
    with pytest.raises(RunError, match="could not be written"):
        texts.keep(full([[2]]), some_prompts(tmp_path), step=0)
