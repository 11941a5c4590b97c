"""A reward model learns from the very tokens that whoever scores a conversation lays out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignkit.config.sections import Data
from alignkit.data.encoding.closing import closing
from alignkit.data.pairs import prepare_pairs
from alignkit.rewards.judged import Judged
from alignkit.rewards.kinds.model import ModelReward
from alignkit.stages.reward.rows import Closed
from tests.stages.reward.making import pair, write_rows
from tests.tiny import CHATML, build_tokenizer

TEMPLATES = {
    "a line break after the end of turn": CHATML,
    "nothing after it": CHATML.replace("'<|im_end|>' + '\\n'", "'<|im_end|>'"),
    "no end of turn": "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    "more after it": CHATML.replace("{% if add", "{{ '<|im_start|>the end' if not add_generation_prompt }}{% if add"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_end_as_conversations_do(name: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(TEMPLATES[name])
    data = write_rows(tmp_path / "pairs.jsonl", 9, pair)
    how = closing(tokenizer)
    assert how is not None
    prepared = prepare_pairs(Data(name=str(data), holdout=3, max_length=96), tokenizer, wants="preference")
    for rows in (Closed(prepared.train, how), Closed(prepared.held_out, how)):
        for row in rows:
            for branch in row.branches:
                ids = [*row.trunk, *branch.ids]
                text = tokenizer.decode(ids)
                assert ids == ModelReward(None, tokenizer, batch=1)._ids(judged_of(data, text))
                assert len(branch.ids) == len(branch.scored)


def judged_of(data: Path, text: str) -> Judged:
    """The answer of the data that a row's text holds."""
    import json

    for line in data.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        for side in ("chosen", "rejected"):
            answer = row[side][0]["content"]
            if row["prompt"][0]["content"] in text and f"{answer}<" in text.replace("\n", "<"):
                return Judged(prompt=row["prompt"], answer=answer)
    raise AssertionError(text)


def test_plain_text_and_cut_answers_stay(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    how = closing(tokenizer)
    assert how is not None and how.add == tuple(tokenizer("\n")["input_ids"]) and how.drop == 0

    def plain(word: str, number: int, rng: Any) -> dict[str, Any]:
        return {"prompt": f"{word}:", "chosen": f" {word.upper()}", "rejected": f" {word}"}

    data = write_rows(tmp_path / "plain.jsonl", 6, plain)
    prepared = prepare_pairs(Data(name=str(data), holdout=2), tokenizer, wants="preference")
    judge = ModelReward(None, tokenizer, batch=1)
    for row in Closed(prepared.train, how):
        texts = [tokenizer.decode([*row.trunk, *branch.ids], skip_special_tokens=True) for branch in row.branches]
        for branch, text in zip(row.branches, texts, strict=True):
            prompt, answer = text.split(":")
            assert [*row.trunk, *branch.ids] == judge._ids(Judged(prompt=f"{prompt}:", answer=answer))
            assert branch.ids[-1] == tokenizer.eos_token_id
    chats = write_rows(tmp_path / "pairs.jsonl", 6, pair)
    section = Data(name=str(chats), holdout=2, max_length=40, overlength="truncate", overlength_limit=1)
    cut = prepare_pairs(section, tokenizer, wants="preference", truncation="answer").train
    unfinished = [branch for row in Closed(cut, how) for branch in row.branches if branch.ids[-1:] != list(how.add)]
    assert unfinished and all(tokenizer.eos_token_id not in branch.ids for branch in unfinished)
