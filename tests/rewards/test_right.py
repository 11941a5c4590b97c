"""Right answers: as text, as mathematics, from a column; and prompts that have none, told before sampling."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.sections import Model
from alignkit.data.prompts import Asked
from alignkit.errors import NumericsError, RequestError
from alignkit.rewards.fitting import judged, prompt_faults
from alignkit.rewards.judged import Judged
from alignkit.rewards.kinds.right import parsed_reference, same_mathematics
from alignkit.rewards.mixture import Rewards, reward
from alignkit.rewards.recipe import RewardSource
from tests.rewards.test_models import classifier
from tests.tiny import build_tokenizer, save_tiny

MATH = RewardSource(name="math")


def asked(prompt: Any = "p", **changes: Any) -> Asked:
    return Asked(**{"prompt": prompt, "ids": [1, 2], "where": "p.jsonl line 7", **changes})


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("42", "The answer is 42."),
        ("42", "so $x=42$"),
        (r"\frac{1}{2}", r"it is \boxed{0.5}"),
        ("1,000", "1000 dollars"),
        ("It is 48/2=24\n#### 72", "48/2 = 24, and 24+48 = 72.\n#### 72"),
        ("x^2+2x+1", "$(x+1)^2$"),
        ("10%", "$0.1$"),
        ("(1,2]", "$(1,2]$"),
        (r"$\{1,2\}$", r"$\{2,1\}$"),
        (r"\sqrt{8}", r"$2\sqrt{2}$"),
        ("$18.00", "The price is $18"),
        ("5", "4, no wait: 5"),
        ("-3", "-3"),
    ],
)
def test_equal_as_mathematics(reference: str, answer: str) -> None:
    assert reward(MATH)([Judged(prompt="p", answer=answer, reference=reference)]) == [1.0]


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("42", "41"),
        ("42", "no idea"),
        ("42", ""),
        ("5", "5, no wait: 4"),
        ("3", "-3"),
        ("x^2", "$x^3$"),
        ("72", "24\n#### 7"),
    ],
)
def test_not_equal_as_mathematics(reference: str, answer: str) -> None:
    assert reward(MATH)([Judged(prompt="p", answer=answer, reference=reference)]) == [0.0]


@pytest.mark.parametrize("text", ["Paris", "It is a nice day", "", "a list of words: one, two"])
def test_what_is_no_mathematics_is_no_right_answer(text: str) -> None:
    assert parsed_reference(text) == []
    with pytest.raises(NumericsError, match="compares mathematics, and the row's right answer is none"):
        reward(MATH)([Judged(prompt="p", answer="3", reference=text)])


def test_an_answer_that_would_take_more_than_a_life_is_wrong_in_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    assert not same_mathematics("It is $10^{10^{10}}$.", parsed_reference("3"))
    assert time.monotonic() - began < 30
    assert capfd.readouterr() == ("", "")


def test_mathematics_in_another_thread() -> None:
    """Signals, which interrupt what takes too long, are the main thread's."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(same_mathematics(r"\boxed{1/2}", parsed_reference("0.5"))))
    thread.start()
    thread.join()
    assert found == [True]


def test_the_right_answer_of_a_column() -> None:
    rows = [
        Judged(prompt="p", answer="It is 7", reference="5", columns={"result": 7}),
        Judged(prompt="p", answer='{"a": 1}', columns={"result": {"a": 1}}),
    ]
    assert reward(RewardSource(name="exact", column="result"))(rows) == [1.0, 1.0]
    assert reward("exact")(rows[:1]) == [0.0]
    assert reward(RewardSource(name="math", column="result"))(rows[:1]) == [1.0]
    with pytest.raises(NumericsError, match="compares with the column `gone`, and the row has none"):
        reward(RewardSource(name="exact", column="gone"))(rows)


def test_the_first_prompt_that_does_not_fit_each_reward_is_told() -> None:
    sources = [RewardSource(name="exact"), MATH, RewardSource(name="math", column="result"), RewardSource(name="json")]
    prompts = [asked(reference="5", columns={"result": "x+1"}), asked(reference="Paris", where="line 8"), asked()]
    found = {fault.where: fault.what for fault in prompt_faults(sources, prompts, "rlhf.rewards")}
    assert set(found) == {"rlhf.rewards[0]", "rlhf.rewards[1]", "rlhf.rewards[2]"}
    assert "has none that can be checked" in found["rlhf.rewards[0]"] and "line 7" in found["rlhf.rewards[0]"]
    assert "the row's right answer is none: 'Paris' (line 8)" in found["rlhf.rewards[1]"]
    assert "the column `result`, and the row has none (line 8)" in found["rlhf.rewards[2]"]
    assert prompt_faults(sources[:3], prompts[:1], "r") == []


def test_code_that_cannot_be_imported_is_told_before_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_r1.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(RequestError, match="could not be imported: ModuleNotFoundError"):
        prompt_faults([RewardSource(name="broken_r1:f")], [asked()], "r")


def test_models_that_cannot_read_the_prompts_are_told_before_sampling(tmp_path: Path) -> None:
    place = classifier(tmp_path / "rm")
    chat = asked([{"role": "user", "content": "why?"}])
    source = RewardSource(name="model", model=Model(name=str(place)))
    assert prompt_faults([source], [chat], "r") == []
    build_tokenizer(None).save_pretrained(place)
    (place / "chat_template.jinja").unlink(missing_ok=True)
    [fault] = prompt_faults([source], [chat], "r")
    assert "has no chat template, and the prompt is a conversation (p.jsonl line 7)" in fault.what
    assert prompt_faults([source], [asked()], "r") == []
    with pytest.raises(RequestError, match="template"):  # no answer's fault, so no skipping
        Rewards.of([source], skip=True)([judged(chat, "a")])

    small = save_tiny(tmp_path / "judge", max_position_embeddings=64)
    source = RewardSource(name="judge", model=Model(name=str(small)))
    [fault] = prompt_faults([source], [asked("x" * 50)], "r")
    assert "tokens without any answer in them, and the judge reads 64" in fault.what
    source = RewardSource(name="judge", model=Model(name=str(small)), template="{reference} {answer}")
    [fault] = prompt_faults([source], [asked(reference="5"), asked(where="line 8")], "r")
    assert "shows the right answer to the judge ({reference}), and the row has none" in fault.what
    assert "line 8" in fault.what


def test_an_answer_takes_all_that_is_known_of_its_prompt() -> None:
    tools = [{"type": "function"}]
    row = judged(asked("p", reference="5", columns={"a": 1}, tools=tools), "text")
    assert row == Judged(
        prompt="p", answer="text", reference="5", columns={"a": 1}, tools=tools, where="p.jsonl line 7"
    )
