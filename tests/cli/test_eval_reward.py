"""`alignkit eval MODEL reward=…`: the answers of any data, and the model's own, under a reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Runner
from tests.stages.reward.making import labelled, pair, ranked, reward, scored, turn, write_rows
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model and a reward model that was trained on it."""
    folder = tmp_path_factory.mktemp("made")
    model = save_tiny(folder / "llama", initializer_range=0.3)
    data = write_rows(folder / "pairs.jsonl", 56, pair)
    result = reward(model, data, folder / "runs", adapter="lora", schedule__max_steps=12)
    return {"model": model, "scorer": Path(result["path"]), "pairs": data}


SHORT = ("evaluation.max_new_tokens=4", "model.dtype=fp32", "--json")


def found(run: Runner, *words: object) -> dict[str, Any]:
    code, out, err = run("eval", *words, *SHORT)
    assert code == 0, err
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_both_sorts_of_answers(alignkit: Runner, made: dict[str, Path]) -> None:
    answer = found(alignkit, made["model"], f"data={made['pairs']}", f"reward={made['scorer']}", "evaluation.rows=20")
    data, own = answer["data"], answer["own"]
    assert data["rows"] == own["rows"] == 20 and len(data["answers"]) == len(own["answers"]) == 20
    assert data["accuracy"] > 0.9 and data["margin"] > 1 and data["reliability"]
    assert own["accuracy"] is None and 0 <= own["win_rate"] <= 1
    assert own["answers"][0]["answer"].startswith("[")
    code, out, _ = alignkit(
        "eval",
        made["model"],
        f"data={made['pairs']}",
        f"reward={made['scorer']}",
        "evaluation.rows=4",
        "evaluation.max_new_tokens=3",
    )
    assert code == 0 and "answers of the data" in out and "win rate over the data" in out and "reward of chosen" in out


def test_a_reward_model_in_the_place_of_the_model_judges_the_data(
    alignkit: Runner,
    made: dict[str, Path],
    tmp_path: Path,
) -> None:
    answer = found(alignkit, made["scorer"], f"data={made['pairs']}")
    assert "own" not in answer and answer["data"]["rows"] == 56
    folder = tmp_path / "data"
    folder.mkdir()
    for name, make in (("scored", scored), ("labelled", labelled), ("ranked", ranked)):
        data = write_rows(folder / f"{name}.jsonl", 24, make)
        words = (f"data={data}", "data.format=scored") if name == "scored" else (f"data={data}",)
        told = found(alignkit, made["scorer"], *words)["data"]
        assert told["rows"] == 24
        if name == "scored":
            assert told["correlation"] is not None and told["accuracy"] is None
        if name == "labelled":
            assert told["area"] > 0.8 and told["accuracy"] is not None
        if name == "ranked":
            assert [one["n"] for one in told["best_of"]] == [2, 4] and told["rank_correlation"] is not None
    chats = write_rows(
        folder / "chats.jsonl", 6, lambda w, n, r: {"messages": [*turn("user", w), *turn("assistant", w)]}
    )
    told = found(alignkit, made["scorer"], f"data={chats}")["data"]
    assert told["rewards"]["answers"]["count"] == 6


def test_rewardbench_s_format_is_scored_by_its_sections(
    alignkit: Runner,
    made: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Plain columns prompt, chosen, rejected and subset, as the data set has them."""
    from alignkit.evaluation.rewardbench import SECTIONS

    names = [name for subsets in SECTIONS.values() for name in subsets]

    def row(word: str, number: int, rng: Any) -> dict[str, Any]:
        swapped = names[number % len(names)].startswith("hep")
        answers = (word, word.upper()) if swapped else (word.upper(), word)
        prompt, chosen, rejected = turn("user", word), turn("assistant", answers[0]), turn("assistant", answers[1])
        return {
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "subset": names[number % len(names)],
            "id": number,
        }

    data = write_rows(tmp_path / "bench.jsonl", 4 * len(names), row)
    told = found(alignkit, made["scorer"], f"data={data}", "evaluation.rows=1000")["data"]
    assert len(told["parts"]) == len(names) == 23
    assert told["sections"]["Chat"] > 0.9 and told["sections"]["Reasoning"] < 0.7
    mean = sum(told["sections"][name] for name in SECTIONS) / 4
    assert told["sections"]["RewardBench"] == pytest.approx(mean)


def test_any_reward_will_do(alignkit: Runner, made: dict[str, Path]) -> None:
    answer = found(alignkit, made["model"], f"data={made['pairs']}", "reward=length", "answers=data")
    assert answer["reward"] == "length" and "own" not in answer


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("reward=jsn",), "there is no reward 'jsn'"),
        (("reward=./none",), "none"),
        (("answers=own",), "there is no reward"),
        (("reward=tests.x:f",), "--allow-code"),
        (("reward={model}",), "is no reward model"),
    ],
)
def test_sentences_before_weights_are_read(
    words: tuple[str, ...],
    said: str,
    alignkit: Runner,
    made: dict[str, Path],
) -> None:
    given = [word.format(model=made["model"]) for word in words]
    code, out, err = alignkit("eval", made["model"], f"data={made['pairs']}", *given)
    assert (code, out) == (2, "") and said in err and "Traceback" not in err


def test_a_reward_model_gives_no_answers_of_its_own(alignkit: Runner, made: dict[str, Path]) -> None:
    code, out, err = alignkit("eval", made["scorer"], f"data={made['pairs']}", "reward=length")
    assert code == 2 and "is a reward model" in err and out == ""
    texts = made["pairs"].parent / "texts.jsonl"
    texts.write_text('{"text": "a"}\n' * 5)
    code, _, err = alignkit("eval", made["scorer"], f"data={texts}")
    assert code == 2 and "no answer in it that could be judged" in err
