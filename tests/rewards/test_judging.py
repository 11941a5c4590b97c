"""Rewards that fail, rewards that are added up, and the user's own functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.errors import NumericsError, RequestError
from alignkit.rewards.judged import EachReward, Judged, Reward
from alignkit.rewards.mixture import Rewards, reward
from alignkit.rewards.recipe import RewardSource, module_file


def rows(*answers: str) -> list[Judged]:
    return [Judged(prompt="what?", answer=answer, where="p.jsonl line 1") for answer in answers]


class Fixed(Reward):
    name = "fixed"

    def __init__(self, given: Any) -> None:
        self.given = given

    def score(self, rows: Sequence[Judged]) -> Any:
        return [self.given for _ in rows]


@pytest.mark.parametrize("given", [math.nan, math.inf, -math.inf, None, "1", [1, 2], object()])
def test_what_is_no_number_is_shown_with_its_prompt_and_answer(given: Any) -> None:
    with pytest.raises(NumericsError) as caught:
        Fixed(given)(rows("the answer"))
    assert caught.value.exit_code == 3
    assert "reward fixed gave" in str(caught.value)
    assert "Prompt: what?\nAnswer: the answer" in str(caught.value)
    assert "p.jsonl line 1" in str(caught.value)


@pytest.mark.parametrize("given", [1, 0.5, True, np.float32(2), np.array(3.0), torch.tensor([4.0])])
def test_numbers_of_other_libraries_are_numbers(given: Any) -> None:
    assert Fixed(given)(rows("a")) == [float(given)]


def test_a_reward_that_raises_is_asked_row_by_row() -> None:
    def picky(row: Judged) -> float:
        if "bad" in row.answer:
            raise ValueError("cannot judge this")
        return float(len(row.answer))

    scores, problems = EachReward("picky", picky).judge(rows("good", "bad one", "fine"))
    assert scores[0] == 4.0 and math.isnan(scores[1]) and scores[2] == 4.0
    assert problems == [None, "raised ValueError: cannot judge this", None]
    with pytest.raises(NumericsError, match="raised ValueError: cannot judge this"):
        EachReward("picky", picky)(rows("good", "bad one"))


def test_a_wrong_number_of_scores_is_an_error() -> None:
    class Short(Fixed):
        def score(self, rows: Sequence[Judged]) -> list[float]:
            return [1.0]

    scores, problems = Short(0).judge(rows("a", "b"))  # also where it would give one each, asked one by one
    assert all(map(math.isnan, scores)) and problems == ["gave 1 score for 2 answers"] * 2
    with pytest.raises(NumericsError, match=r"gave 1 score for 2 answers.*\n.*what"):
        Short(0)(rows("a", "b"))
    with pytest.raises(NumericsError, match="gave 0 scores for 1 answer"):
        type("None_", (Fixed,), {"score": lambda self, rows: []})(0)(rows("a"))


def test_several_are_added_with_their_weights_and_each_is_kept() -> None:
    mixed = Rewards.of([RewardSource(name="json"), RewardSource(name="length", weight=-0.5)])
    found = mixed(rows("[1]", "two words"))
    assert found.parts == {"json": [1.0, 0.0], "length": [1.0, 2.0]}
    assert found.total == [0.5, -1.0]
    twice = Rewards.of([RewardSource(name="regex", pattern=letter) for letter in "abc"])
    assert list(twice(rows("b")).parts) == ["regex", "regex#2", "regex#3"]
    assert twice(rows("b")).total == [1.0]


def test_skipping_leaves_nan_and_says_why() -> None:
    half = EachReward("half", lambda row: math.nan if row.answer == "b" else 1.0)
    found = Rewards([(EachReward("one", lambda row: 1.0), 2.0), (half, 1.0)], skip=True)(rows("a", "b"))
    assert found.total[0] == 3.0 and math.isnan(found.total[1])
    assert found.problems == [None, "half gave nan"]


FUNCTION = """
def words(prompts, completions, reference, subject, **rest):
    assert prompts == ["p", "p"] and reference == ["r", None] and subject == ["maths", None], (prompts, subject)
    return [len(text.split()) for text in completions]

def chat(prompts, completions, **rest):
    assert prompts[0][0]["role"] == "user"
    return [float("yes" in messages[0]["content"]) for messages in completions]

def single(prompts, completions, **rest):
    return 3.0
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards_a1.py").write_text(FUNCTION)
    package = tmp_path / "my_package_a1"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(FUNCTION)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["my_rewards_a1:words", "my_package_a1.inner:words", "./my_rewards_a1.py:words", "my_rewards_a1.py:words"]
)
def test_a_function_gets_lists_and_columns_as_trl_hands_them(here: Path, name: str) -> None:
    found = reward(name, allow_code=True)
    given = [
        Judged(prompt="p", answer="a b c", reference="r", columns={"subject": "maths"}),
        Judged(prompt="p", answer="d"),
    ]
    assert found.score(given) == [3, 1]
    assert found.name == name


def test_a_function_sees_messages_where_the_prompt_is_a_conversation(here: Path) -> None:
    asked = [{"role": "user", "content": "well?"}]
    given = [Judged(prompt=asked, answer="yes!"), Judged(prompt=asked, answer="no")]
    assert reward("my_rewards_a1:chat", allow_code=True)(given) == [1.0, 0.0]


def test_code_needs_to_be_allowed_and_to_be_there(here: Path) -> None:
    with pytest.raises(RequestError, match=r"is Python code that would be run. Add --allow-code"):
        reward("my_rewards_a1:words")
    with pytest.raises(RequestError, match="there is no module missing_a1 here"):
        reward("missing_a1:words", allow_code=True)
    with pytest.raises(RequestError, match="could not be imported: AttributeError"):
        reward("my_rewards_a1:gone", allow_code=True)
    with pytest.raises(NumericsError, match="must give a list of numbers"):
        reward("my_rewards_a1:single", allow_code=True)(rows("a"))


def test_the_files_that_decide_what_a_function_says(here: Path) -> None:
    assert list(RewardSource(name="my_rewards_a1:words").files()) == ["my_rewards_a1.py"]
    whole = RewardSource(name="my_package_a1.inner:words").files()
    assert sorted(whole) == ["__init__.py", "inner.py"]
    assert sorted(RewardSource(name="my_package_a1:words").files()) == ["__init__.py", "inner.py"]
    assert module_file("json") is not None and module_file("nothing_of_that_name") is None


def test_looking_for_a_module_runs_nothing(here: Path) -> None:
    (here / "loud_a1.py").write_text("raise SystemExit('was run')")
    assert RewardSource(name="loud_a1:f").files() == {"loud_a1.py": Path("loud_a1.py")}
    with pytest.raises(RequestError, match="allow-code"):
        reward("loud_a1:f")


@pytest.mark.parametrize("name", ["./dir", "../dir", "/tmp/dir", "~/dir", "hub:owner/model", "owner/model"])
def test_a_path_or_hub_name_is_a_reward_model(name: str) -> None:
    source = RewardSource(name=name)
    assert source.name == "model" and source.model is not None and source.model.name == name
    assert source.function is None


def test_code_that_is_called_wrongly_is_told_how_it_is_called(here: Path) -> None:
    (here / "short_a1.py").write_text("def one(prompt, answer):\n    return 1.0\n")
    with pytest.raises(NumericsError) as caught:
        reward("short_a1:one", allow_code=True)(rows("a"))
    assert "raised TypeError" in str(caught.value) and "def score(prompts, completions, **columns)" in str(caught.value)
    assert "finite number" not in str(caught.value)


def test_what_a_line_calls_a_reward() -> None:
    assert RewardSource(name="json").said == "json"
    assert RewardSource(name="./dir").said == "model ./dir"


def test_a_list_where_one_reward_is_read(here: Path) -> None:
    with pytest.raises(RequestError, match=r"a list stands where several rewards are added up"):
        reward("[json,length]", where="evaluation.reward")
