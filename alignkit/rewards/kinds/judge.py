"""A causal model as judge: it is asked for a grade from 1 to 9, and the reward is the grade that it expects.

One reading and no writing: Σ grade · p(grade) / Σ p(grade) over what it would write first, which is deterministic and
seldom ties (Liu et al. 2023, G-Eval, section 2.3, weigh grades by their probability in the same way).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.rewards.judged import Judged, Reward, as_text
from alignkit.rewards.kinds.kind import Kind, Making
from alignkit.rewards.recipe import RewardSource

GRADES = range(1, 10)
"""One digit each: a grade of 10 would be two tokens for many models."""
UNSURE = 0.5
"""Probability of all grades together below which the judge is said not to do what it is asked."""

TEMPLATE = """Here is a conversation and an answer to it.

[Conversation]
{prompt}

[Answer]
{answer}

How good is the answer? Grade its correctness, helpfulness and clarity from 1 (useless) to 9 (excellent). \
Reply with the grade alone, one digit."""


class JudgeReward(Reward):
    """The expected grade, from 1 to 9."""

    name = "judge"

    def __init__(
        self, model: Any, tokenizer: Any, *, batch: int, template: str = TEMPLATE, where: str = "reward"
    ) -> None:
        self.model, self.tokenizer, self.batch, self.template = model, tokenizer, batch, template
        self.grades = grade_tokens(tokenizer)
        self._said = False
        if any(not ids for ids in self.grades):
            what = "the judge's tokenizer has no token for some digit, and is asked for one"
            raise RequestError(Fault(where=f"{where}.model", what=what, instead="Take another judge."))

    def score(self, rows: Sequence[Judged]) -> list[float]:
        import torch

        from alignkit.data.encoding.tokenizing import prompt_ids
        from alignkit.evaluation.decoding import Decoder, room
        from alignkit.evaluation.inference import context_length, reading
        from alignkit.evaluation.sampling import pad_id

        asked: list[list[int]] = []
        for row in rows:
            text = fill(self.template, row)
            ids = prompt_ids(self.tokenizer, [{"role": "user", "content": text}] if self._chats else text)
            if not room(self.model, len(ids), 1):
                raise ValueError(f"was asked {len(ids)} tokens, and the judge reads {context_length(self.model)}")
            asked.append(ids)
        order = sorted(range(len(asked)), key=lambda row: -len(asked[row]))
        scores = [0.0] * len(rows)
        sure = 0.0
        device, padding = next(self.model.parameters()).device, pad_id(self.tokenizer)
        grades = torch.tensor(list(GRADES), dtype=torch.float32, device=device)
        with reading(self.model):
            for start in range(0, len(order), self.batch):
                some = order[start : start + self.batch]
                length = len(asked[some[0]])
                lead = [length - len(asked[row]) for row in some]
                ids_ = [[padding] * pad + asked[row] for pad, row in zip(lead, some, strict=True)]
                mask = torch.tensor([[0] * pad + [1] * (length - pad) for pad in lead], device=device)
                logits = Decoder(self.model).read(torch.tensor(ids_, device=device), mask if any(lead) else None)
                probabilities = torch.softmax(logits.float(), -1)  # (B, V)
                each = torch.stack([probabilities[:, ids].sum(-1) for ids in self.grades], -1)  # (B, 9)
                sure += float(each.sum())
                expected = (each * grades).sum(-1) / each.sum(-1)
                for place, score in zip(some, expected.tolist(), strict=True):
                    scores[place] = score
        if sure < UNSURE * len(rows) and not self._said:
            self._said = True
            log.warn(
                f"the judge would reply with a grade in {sure / len(rows):.0%} of the cases: its grades say little"
            )
        return scores

    @property
    def _chats(self) -> bool:
        return bool(self.tokenizer.chat_template)


def grade_tokens(tokenizer: Any) -> list[list[int]]:
    """For each grade the ids of the tokens that are that digit, with or without a space before it."""
    found = []
    for grade in GRADES:
        spellings = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (str(grade), f" {grade}")]
        found.append(sorted({ids[0] for ids in spellings if len(ids) == 1}))
    return found


def fill(template: str, row: Judged) -> str:
    """The template with `{prompt}`, `{answer}`, `{reference}` and the row's columns in place; other braces stay."""
    known: dict[str, Any] = {**row.columns, "prompt": as_text(row.prompt), "answer": row.answer}
    if row.reference is not None:
        known["reference"] = row.reference
    return re.sub(r"\{(\w+)\}", lambda found: str(known[found[1]]) if found[1] in known else found[0], template)


def _make(source: RewardSource, making: Making) -> Reward:
    from alignkit.models.loading import load

    assert source.model is not None
    loaded = load(source.model)
    template = source.template or TEMPLATE
    return JudgeReward(loaded.model, loaded.tokenizer, batch=making.batch, template=template, where=making.where)


def _check(source: RewardSource, where: str) -> Iterator[Fault]:
    if source.template is not None and "{answer}" not in source.template:
        yield Fault(
            where=f"{where}.template",
            what="does not show the answer to the judge",
            instead="Write {answer} where it is to stand, and {prompt} for what was asked.",
        )


def _readable(source: RewardSource) -> Callable[[Judged], str | None]:
    """The question fits the judge's context even before an answer stands in it, and shows what the row has."""
    from alignkit.data.encoding.tokenizing import prompt_ids
    from alignkit.models.loading import load_tokenizer
    from alignkit.models.sources import context_length, locate

    assert source.model is not None
    template = source.template or TEMPLATE
    place = locate(source.model)
    tokenizer, limit = load_tokenizer(source.model, place), context_length(place)

    def problem(row: Judged) -> str | None:
        if "{reference}" in template and row.reference is None and "reference" not in row.columns:
            return "shows the right answer to the judge ({reference}), and the row has none that can be checked"
        text = fill(template, row)
        count = len(prompt_ids(tokenizer, [{"role": "user", "content": text}] if tokenizer.chat_template else text))
        if limit is not None and count >= limit:
            return f"would ask {count} tokens without any answer in them, and the judge reads {limit}"
        return None

    return problem


JUDGE = Kind(
    name="judge",
    about="the grade from 1 to 9 that a causal model expects to give",
    make=_make,
    reads=("model", "template"),
    needs=("model",),
    example="Write {name: judge, model: NAME}.",
    check=_check,
    fits=_readable,
)
