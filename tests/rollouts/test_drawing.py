"""Answers of the policy: who decides what is drawn, and what comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from alignkit.evaluation.sampling import uniforms
from alignkit.evaluation.stopping import stop_tokens
from alignkit.rollouts.drawing import draw, stream
from tests.evaluation.test_decoding import tiny
from tests.rollouts.making import some_prompts
from tests.tiny import build_tokenizer

SETTINGS: dict[str, Any] = {
    "samples": 3, "max_new_tokens": 9, "temperature": 1.0, "seed": 5, "number": 2, "batch": 64
}  # fmt: skip


def test_answers_come_prompt_by_prompt_with_what_they_start_from(tmp_path: Path) -> None:
    model, tokenizer, prompts = tiny("llama"), build_tokenizer(), some_prompts(tmp_path)
    tokenizer.eos_token = "e"  # one of 259 tokens: then some answers end
    model.generation_config.eos_token_id = list(range(2, 259, 9))
    found = draw(model, tokenizer, prompts, [4, 1], **SETTINGS)
    assert [(one.prompt, one.sample) for one in found] == [(p, s) for p in (4, 1) for s in range(3)]
    stop = stop_tokens(model, tokenizer)
    for one in found:
        assert one.trunk == prompts[one.prompt].ids and one.where == prompts[one.prompt].where
        assert 1 <= len(one.ids) <= 9 and one.finished == (one.ids[-1] in stop)
        assert not stop.intersection(one.ids[:-1])
        body = one.ids[:-1] if one.finished else one.ids
        assert one.text == tokenizer.decode(body, skip_special_tokens=True)
        assert one.reward != one.reward and one.parts == {} and one.problem is None, "nobody judged it"
    assert {one.finished for one in found} == {True, False}


def test_seed_rollout_prompt_and_sample_decide_what_is_drawn(tmp_path: Path) -> None:
    model, tokenizer, prompts = tiny("llama"), build_tokenizer(), some_prompts(tmp_path)

    def drawn(numbers: list[int], **changes: Any) -> dict[tuple[int, int], list[int]]:
        found = draw(model, tokenizer, prompts, numbers, **{**SETTINGS, **changes})
        return {(one.prompt, one.sample): one.ids for one in found}

    whole = drawn([0, 1, 2, 3, 4])
    assert len({tuple(ids) for ids in whole.values()}) > 12, "samples should differ"
    assert drawn([4, 2, 0, 1, 3], batch=2) == whole
    alone = drawn([3])
    assert alone == {key: ids for key, ids in whole.items() if key[0] == 3}
    assert drawn([3], samples=2) == {key: ids for key, ids in alone.items() if key[1] < 2}
    for change in ({"seed": 6}, {"number": 3}, {"number": 0}):
        other = drawn([0, 1, 2, 3, 4], **change)
        assert sum(other[key] == ids for key, ids in whole.items()) <= 1


def test_no_two_streams_of_a_run_are_the_same() -> None:
    """Also where a seed sequence pads with zeros: the first sample of one rollout and a later one of another."""
    numbers = [stream(rollout, prompt) for rollout in range(4) for prompt in (0, 1, 2, 2**20)]
    chances = np.concatenate([uniforms(seed, numbers, 4, 3) for seed in (0, 1)])  # (2·16·4, 3)
    assert len(np.unique(chances, axis=0)) == len(chances) == 128
    assert len(set(numbers)) == 16
