"""What the answers of a tiny policy to held-out prompts are worth, and how far it is from its reference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.data.prompts import Asked
from alignkit.errors import RequestError
from alignkit.evaluation.scores import wilson
from alignkit.evaluation.scoring import token_log_probs
from alignkit.rewards.judged import EachReward, Judged
from alignkit.rewards.mixture import Rewards
from alignkit.rewards.recipe import RewardSource
from alignkit.runs.directory import open_run
from alignkit.stages.rlhf.evaluation import Examination
from alignkit.stages.rlhf.recipe import RlhfOptions
from alignkit.stages.rlhf.recipe_watch import PolicyEvaluation, StopOptions
from alignkit.stages.rlhf.watch import PolicyWatch
from tests.tiny import build_model, build_tokenizer

LETTERS = EachReward("letters", lambda row: float(sum(one.isalpha() for one in row.answer)))
EVEN = EachReward("even", lambda row: float(len(row.answer) % 2 == 0))


@pytest.fixture(scope="module")
def start() -> Any:
    return build_model(seed=1).eval()


@pytest.fixture(scope="module")
def moved() -> Any:
    model = build_model(seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    return model


def asked(count: int = 12) -> list[Asked]:
    tokenizer = build_tokenizer()
    words = [f"say {number}" for number in range(count)]
    return [
        Asked(
            prompt=[{"role": "user", "content": word}],
            ids=tokenizer(word)["input_ids"],
            where=f"p.jsonl line {number + 1}",
            reference=word,
            columns={"number": number},
        )
        for number, word in enumerate(words)
    ]


def examination(tmp_path: Path, reference: Any, **changes: Any) -> Examination:
    options = RlhfOptions(rewards=[RewardSource(name="json")], stop=changes.get("stop", StopOptions()))
    run = open_run(tmp_path, "rlhf", "k" * 64, fresh=True)

    @contextmanager
    def as_model() -> Iterator[Any]:
        yield reference

    values: dict[str, Any] = {
        "section": PolicyEvaluation(rows=8, samples=2, batch=4),
        "stop": options.stop,
        "max_new_tokens": 6,
        "seed": 5,
        "tokenizer": build_tokenizer(),
        "held_out": asked(),
        "rewards": Rewards([(LETTERS, 0.5)]),
        "true": Rewards([(EVEN, 1.0)]),
        "reference": as_model,
        "watch": PolicyWatch(run, options),
    }
    return Examination(**{**values, **changes})


def test_the_start_is_its_own_reference(tmp_path: Path, start: Any) -> None:
    scores = examination(tmp_path, start).before(start)
    assert (scores.kl, scores.kl_interval, scores.kl_per_token) == (0.0, (0.0, 0.0), 0.0)
    assert scores.rows == len(scores.true_values) == 8 and len(scores.answers) == 2
    assert scores.true_name == "even" and scores.apart and scores.share
    assert scores.true_reward == pytest.approx(np.mean(scores.true_values))
    assert scores.true_reward_interval == pytest.approx(wilson(sum(scores.true_values), 8))
    assert scores.parts["letters"] == pytest.approx(2 * scores.reward), "a part stands there without its weight"
    assert scores.length <= 6 and scores.change is None


def test_what_changed_is_measured_prompt_by_prompt(tmp_path: Path, start: Any, moved: Any) -> None:
    looking = examination(tmp_path, start)
    before, after = looking.before(start), looking.after(moved)
    assert after.change == pytest.approx(np.mean(np.array(after.true_values) - before.true_values))
    assert after.reward_change == pytest.approx(np.mean(np.array(after.reward_values) - before.reward_values))
    assert after.change_interval is not None and after.change_interval[0] <= after.change <= after.change_interval[1]
    assert after.kl != 0 and after.kl_interval[0] < after.kl < after.kl_interval[1]
    again = examination(tmp_path, start)
    again.before(start)
    assert again.after(start).change == again.after(start).reward_change == 0, "the same chances, the same answers"


def test_the_kl_is_that_of_the_answers(tmp_path: Path, start: Any, moved: Any) -> None:
    """Below ten answers no control variate enters: the plain mean of the log-ratios."""
    said: list[Judged] = []
    spy = EachReward("spy", lambda row: said.append(row) or 0.0)  # type: ignore[func-returns-value]
    looking = examination(tmp_path, start, true=None, rewards=Rewards([(spy, 1.0)]))
    scores = looking.after(moved)
    assert [row.columns["number"] for row in said] == list(range(8)) and said[3].reference == "say 3"
    from alignkit.evaluation.answering import answered_ids

    rows = asked(8)
    drawn = answered_ids(
        moved,
        build_tokenizer(),
        [row.ids for row in rows],
        what="x",
        max_new_tokens=6,
        temperature=1.0,
        seed=5,
        batch=4,
    )
    assert [one.text for one in drawn] == [row.answer for row in said]
    from alignkit.data.rows import Encoded

    both = [
        Encoded([*row.ids, *one.ids], [-100] * len(row.ids) + one.ids, "") for row, one in zip(rows, drawn, strict=True)
    ]
    policy, fixed = (token_log_probs(model, both, pad_id=0) for model in (moved, start))
    ratios = [float((a - b).sum()) for a, b in zip(policy, fixed, strict=True)]
    assert scores.kl == pytest.approx(np.mean(ratios), rel=1e-5)
    assert scores.kl_per_token == pytest.approx(sum(ratios) / sum(len(one.ids) for one in drawn), rel=1e-5)


def test_without_a_true_metric_the_reward_is_it(tmp_path: Path, start: Any) -> None:
    scores = examination(tmp_path, start, true=None).before(start)
    assert not scores.apart and scores.true_values == scores.reward_values and scores.true_name == "letters"
    assert not scores.share and scores.answers[0].correct is None and scores.answers[0].answer.startswith("[+")


def test_shares_are_shares_before_and_after(tmp_path: Path, start: Any) -> None:
    looking = examination(tmp_path, start)
    assert looking.before(start).share and looking.after(start).share
    numbers = replace(looking, true=Rewards([(EachReward("half", lambda row: 0.5), 1.0)]))
    assert not numbers.before(start).share
    assert not looking.after(start).share, "zeros and ones that were other numbers before are no shares"
    assert looking.before(start).share, "an evaluation that is done again knows nothing of the first"


def test_names_fit_a_table(tmp_path: Path, start: Any) -> None:
    def named(*names: str) -> str:
        made = [(EachReward(name, lambda row: 1.0), 1.0) for name in names]
        return examination(tmp_path, start, true=Rewards(made)).true_name

    assert named("json", "length") == "json+length" and named("/far/away/play.py:half") == "play.py:half"
    assert named("a" * 20, "b" * 20) == "2 rewards" and named("c" * 50) == "…" + "c" * 32


def test_likeliest_answers_are_judged_where_that_is_asked_for(tmp_path: Path, start: Any) -> None:
    section = PolicyEvaluation(rows=8, batch=4, answers="greedy")
    drawn, greedy = (examination(tmp_path, start, **more).before(start) for more in ({}, {"section": section}))
    assert greedy.greedy and greedy.answers[0].answer != drawn.answers[0].answer
    assert (greedy.length, greedy.repetition) == (drawn.length, drawn.repetition), "these are of drawn answers"
    assert examination(tmp_path, start, section=section, seed=9).before(start).true_values == greedy.true_values


def test_the_budget_of_answers_is_the_rollouts_unless_told(tmp_path: Path, start: Any) -> None:
    assert examination(tmp_path, start, max_new_tokens=3).before(start).length <= 3
    longer = PolicyEvaluation(rows=8, batch=4, max_new_tokens=12)
    assert examination(tmp_path, start, max_new_tokens=3, section=longer).before(start).length > 3


def test_rewards_that_are_not_known_take_no_part(tmp_path: Path, start: Any) -> None:
    odd = EachReward("odd", lambda row: math.nan if row.columns["number"] % 2 else 2.0)
    scores = examination(tmp_path, start, rewards=Rewards([(odd, 1.0)], skip=True), true=None).before(start)
    assert scores.true_reward == 2.0 and sum(map(math.isnan, scores.true_values)) == 4
    none = examination(
        tmp_path, start, rewards=Rewards([(EachReward("no", lambda row: math.nan), 1.0)], skip=True), true=None
    ).before(start)
    assert math.isnan(none.true_reward) and none.as_dict()["true_reward"] == "nan"


def test_a_look_takes_the_last_prompts(tmp_path: Path, start: Any, moved: Any) -> None:
    stop = StopOptions(every=1, rows=5)
    looking = examination(tmp_path, start, stop=stop)
    look, figures = looking.look(moved, 4)
    assert look.step == 4 and len(look.true) == len(look.reward) == 5 and figures["kl"] != 0
    assert looking.look(start, 0)[1]["kl"] == 0
    assert looking.overlap == 1 and replace(looking, stop=StopOptions(rows=4)).overlap == 0
    assert replace(looking, stop=StopOptions(rows=100)).overlap == 8


def test_figures_on_the_way(tmp_path: Path, start: Any, moved: Any) -> None:
    looking = examination(tmp_path, start)
    before = looking.before(start)
    found = looking.now(moved, 4)
    assert looking.watch.pending == [found]
    assert "true_change_low" in found and found["true_change"] == pytest.approx(
        found["true_reward"] - np.mean(before.true_values[:4])
    )
    assert "true_change" not in looking.now(moved, None), "of the last ones nothing is known from before"


def test_no_prompt_to_answer_is_told(tmp_path: Path, start: Any) -> None:
    with pytest.raises(RequestError, match=r"no held-out prompt is left to answer\. Hold out more rows"):
        examination(tmp_path, start, held_out=[]).before(start)
