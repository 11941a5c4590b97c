"""rank, from prompts to a file of pairs: what is written, what is left out, that it goes on where it was cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import alignkit
from alignkit.config.sections import Data
from alignkit.data.prepare import prepare
from alignkit.data.prompts import prepare_prompts
from alignkit.errors import NumericsError, RequestError, RunError
from alignkit.evaluation.sampling import sample_answers
from alignkit.models.loading import load
from tests.tiny import build_tokenizer, save_tiny

BASICS = {"rank.max_new_tokens": "16", "rank.unfinished": "keep", "model.dtype": "fp32", "rank.reward": "length"}


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers differ from each other."""
    return save_tiny(tmp_path_factory.mktemp("talker") / "model", initializer_range=0.3)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write(tmp_path / "prompts.jsonl", [{"prompt": [{"role": "user", "content": "a" * n}]} for n in range(3, 13)])


def rank(
    model: Path, data: Path, root: Path, *words: str, allow_code: bool = False, fresh: bool = False
) -> dict[str, Any]:
    given = [f"model={model}", f"data={data}", f"run.root={root}", *(f"{key}={value}" for key, value in BASICS.items())]
    return alignkit.train("rank", [*given, *words], allow_code=allow_code, fresh=fresh)


def test_pairs_of_the_best_and_the_worst_answer(talker: Path, prompts: Path, tmp_path: Path) -> None:
    result = rank(talker, prompts, tmp_path / "runs", "rank.reward=[{name: length, unit: characters}]")
    path = Path(result["path"])
    assert path.name == "pairs.jsonl" and path.parent == Path(result["run"])
    pairs = read(path)
    samples = {line["number"]: line for line in read(path.parent / "samples.jsonl")}
    assert sorted(samples) == list(range(10))
    expected = []
    for number in range(10):
        texts = [one["text"] for one in samples[number]["answers"] if one["text"].strip()]
        assert len(samples[number]["answers"]) == 4
        best, worst = max(texts, key=len), min(texts, key=len)
        if len(best) > len(worst):
            expected.append((samples[number]["prompt"], best, len(best), len(worst)))
    assert len(expected) > 5
    found = [(row["prompt"], row["chosen"][0]["content"], row["chosen_score"], row["rejected_score"]) for row in pairs]
    assert found == expected
    figures = result["metrics"]["rank"]
    assert figures["pairs"] == len(pairs) and figures["prompts"] == 10 and figures["answers"] == 40
    assert figures["reward"]["mean"] == pytest.approx(
        sum(len(one["text"]) for line in samples.values() for one in line["answers"]) / 40
    )
    assert result["metrics"]["headline"]["after"] == figures["reward"]["mean"]


def test_the_answers_are_the_models_own(talker: Path, prompts: Path, tmp_path: Path) -> None:
    """What `sample_answers` draws with the same seed, whatever the batch; another seed, other answers."""
    result = rank(
        talker, prompts, tmp_path / "runs", "rank.batch=3", "seed=5", "rank.temperature=0.8", "rank.top_p=0.9"
    )
    loaded = load(alignkit_model(talker))
    asked = [row["prompt"] for row in read(prompts)]
    expected = sample_answers(
        loaded.model,
        build_tokenizer(),
        asked,
        samples=4,
        max_new_tokens=16,
        temperature=0.8,
        top_p=0.9,
        seed=5,
        batch=64,
    )
    drawn = {line["number"]: line["answers"] for line in read(Path(result["run"]) / "samples.jsonl")}
    assert [[one["text"] for one in drawn[at]] for at in range(10)] == [[one.text for one in row] for row in expected]
    assert [[one["finished"] for one in drawn[at]] for at in range(10)] == [
        [o.finished for o in row] for row in expected
    ]


def alignkit_model(place: Path) -> Any:
    from alignkit.config.sections import Model

    return Model(name=str(place), dtype="fp32")


def test_cut_off_anywhere_it_goes_on(
    talker: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after every appended line, while answers are drawn and while they are judged: the same file."""
    from alignkit.runs.journal import Journal

    words = ("rank.batch=8", "rank.reward_batch=4")
    whole = Path(rank(talker, prompts, tmp_path / "whole", *words)["path"]).read_bytes()
    untouched = Journal.append

    class Killed(BaseException):
        pass

    calls: list[int] = []

    def append_and_die(self: Journal, lines: Any) -> None:
        untouched(self, lines)
        calls.append(len(self))
        with self.path.open("ab") as file:
            file.write(b'{"number": 99, "half a li')
        raise Killed

    monkeypatch.setattr(Journal, "append", append_and_die)
    for _ in range(8):  # two prompts are answered at a time, and four judged
        with pytest.raises(Killed):
            rank(talker, prompts, tmp_path / "killed", *words)
    assert calls == [2, 4, 6, 8, 10, 4, 8, 10]
    monkeypatch.setattr(Journal, "append", untouched)
    result = rank(talker, prompts, tmp_path / "killed", *words)
    assert Path(result["path"]).read_bytes() == whole
    assert rank(talker, prompts, tmp_path / "killed", *words)["reused"]


def test_a_device_that_is_too_small_and_a_smaller_batch_after_it(
    talker: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from alignkit.stages.rank import run

    untouched, calls = run.sample_ids, []

    def fails_at_the_second(*words: Any, **settings: Any) -> Any:
        calls.append(settings["batch"])
        if len(calls) == 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return untouched(*words, **settings)

    monkeypatch.setattr(run, "sample_ids", fails_at_the_second)
    with pytest.raises(RunError, match=r"does not hold 8 answers at a time. Write rank.batch=4"):
        rank(talker, prompts, tmp_path / "runs", "rank.batch=8")
    result = rank(talker, prompts, tmp_path / "runs", "rank.batch=4")
    assert calls == [8, 8, *[4] * 8]
    whole = rank(talker, prompts, tmp_path / "whole")
    assert Path(result["path"]).read_bytes() == Path(whole["path"]).read_bytes()


def test_every_kind_of_rows_gives_prompts(talker: Path, tmp_path: Path) -> None:
    user, said = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}
    rows: dict[str, list[dict[str, Any]]] = {
        "prompts": [{"prompt": "why?"}],
        "chats": [{"messages": [user, said]}],
        "pairs": [{"prompt": [user], "chosen": [said], "rejected": [{"role": "assistant", "content": "no"}]}],
        "feedback": [{"prompt": [user], "completion": [said], "label": True}],
    }
    seen = []
    for name, given in rows.items():
        data = write(tmp_path / f"{name}.jsonl", given)
        result = rank(talker, data, tmp_path / "runs", "rank.samples=12", "rank.max_new_tokens=40")
        seen.append(read(Path(result["run"]) / "samples.jsonl")[0])
    assert all(line["prompt"] == [user] for line in seen)
    assert len({json.dumps(line["answers"]) for line in seen}) == 1


def test_plain_prompts_stay_plain_and_come_back_as_they_were(tmp_path: Path) -> None:
    """Text without a template: the pairs are text too, and the next stage goes on from the same tokens."""
    model = save_tiny(tmp_path / "model", initializer_range=0.3, template=None)
    data = write(tmp_path / "p.jsonl", [{"prompt": f"Once {n} ", "completion": "x"} for n in range(4)])
    result = rank(model, data, tmp_path / "runs", "rank.reward=[{name: length, unit: characters}]")
    rows = read(Path(result["path"]))
    assert all(isinstance(row[name], str) for row in rows for name in ("prompt", "chosen", "rejected"))
    tokenizer = build_tokenizer(None)
    before = {one.prompt: one.ids for one in prepare_prompts(Data(name=str(data), holdout=0), tokenizer).prompts}
    again = prepare_prompts(Data(name=result["path"], holdout=0), tokenizer).prompts
    assert all(before[one.prompt] == one.ids for one in again)


def test_the_file_is_a_preference_set(talker: Path, prompts: Path, tmp_path: Path) -> None:
    """What stands in it is read back as it was written: the chosen answers, scores, prompts."""
    from alignkit.config.sections import DataSource
    from alignkit.data.formats.converter import plan
    from alignkit.data.rows import Preference, Row

    result = rank(talker, prompts, tmp_path / "runs", "rank.reward=[{name: length, unit: characters}]")
    rows = read(Path(result["path"]))
    reader = plan(DataSource(name="x"), "preference", Row(rows[0], "line 1"))
    for row in rows:
        [pair] = reader(Row(row, "line"))
        assert isinstance(pair, Preference)
        assert pair.prompt == row["prompt"] and pair.chosen == row["chosen"] and pair.rejected == row["rejected"]
        assert (pair.chosen_score, pair.rejected_score) == (row["chosen_score"], row["rejected_score"])
    assert len(prepare(Data(name=result["path"], holdout=0), build_tokenizer()).train) == len(rows)


def test_a_function_of_ones_own_reads_the_columns(
    talker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taste_r1.py").write_text(
        "def letters(prompts, completions, letter, **rest):\n"
        "    return [float(m[0]['content'].count(l)) for m, l in zip(completions, letter)]\n"
    )
    data = write(tmp_path / "p.jsonl", [{"question": "a" * n, "letter": "e", "answer": "1"} for n in range(2, 8)])
    words = ("rank.reward=taste_r1:letters", "rank.samples=8", "rank.max_new_tokens=40")
    with pytest.raises(RequestError, match="is Python code that would be run"):
        rank(talker, data, tmp_path / "runs", *words)
    from alignkit import journey

    asked = ["model=" + str(talker), "data=" + str(data), *words]
    assert [fault.where for fault in journey.check("rank", asked)[1]] == ["rank.reward[0].name (from the command line)"]
    assert journey.check("rank", asked, allow_code=True)[1] == []
    first = rank(talker, data, tmp_path / "runs", *words, allow_code=True)
    for row in read(Path(first["path"])):
        assert row["chosen_score"] == row["chosen"][0]["content"].count("e") > row["rejected"][0]["content"].count("e")
    # Another function of the same name is another run.
    (tmp_path / "taste_r1.py").write_text("def letters(prompts, **rest):\n    return [0.0 for _ in prompts]\n")
    from alignkit.config.compose import compose
    from alignkit.journey import identify

    given = [f"model={talker}", f"data={data}", *words]
    now = identify(compose("rank", given).recipe).digests
    assert any(name.startswith("rank.reward[0].taste_r1.py") for name in now)
    (tmp_path / "taste_r1.py").write_text("def letters(prompts, **rest):\n    return [1.0 for _ in prompts]\n")
    assert identify(compose("rank", given).recipe).digests != now


def test_answers_that_cannot_be_judged(
    talker: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "picky_r2.py").write_text(
        "def score(prompts, completions, **rest):\n"
        "    return [None if len(p[0]['content']) == 5 else float(len(m[0]['content']))\n"
        "            for p, m in zip(prompts, completions)]\n"
    )
    with pytest.raises(NumericsError, match=r"picky_r2:score gave None(.|\n)*Prompt: User: aaaaa\nAnswer: "):
        rank(talker, prompts, tmp_path / "runs", "rank.reward=picky_r2:score", allow_code=True)
    result = rank(
        talker, prompts, tmp_path / "runs", "rank.reward=picky_r2:score", "rank.on_error=skip", allow_code=True
    )
    assert all(len(row["prompt"][0]["content"]) != 5 for row in read(Path(result["path"])))
    left_out = result["metrics"]["rank"]["left_out"]
    assert left_out["answers that a reward gave no number for (rank.on_error=skip)"] == 4


def test_nothing_to_tell_apart(talker: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No two answers to any prompt can be told apart"):
        rank(talker, prompts, tmp_path / "runs", "rank.reward=json")


def test_answers_cut_by_the_limit_are_left_out_unless_kept(talker: Path, prompts: Path, tmp_path: Path) -> None:
    result = rank(
        talker, prompts, tmp_path / "runs", "rank.unfinished=drop", "rank.samples=24", "rank.max_new_tokens=40"
    )
    run = Path(result["run"])
    finished = {one["text"] for line in read(run / "samples.jsonl") for one in line["answers"] if one["finished"]}
    cut = [one for line in read(run / "samples.jsonl") for one in line["answers"] if not one["finished"]]
    rows = read(Path(result["path"]))
    assert cut and rows
    assert all(row[name][0]["content"] in finished for row in rows for name in ("chosen", "rejected"))
    left_out = result["metrics"]["rank"]["left_out"]
    assert left_out["answers that the limit cut off (rank.unfinished=drop)"] == len(cut)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rank.reward=exact"], "has none that can be checked"),
        (["rank.max_new_tokens=600"], "600 tokens leave no room for a prompt: the model reads 512"),
        (["rank.reward=[{name: length, weight: 0}]"], "no reward has a weight other than 0"),
        (["rank.reward=jsno"], "there is no reward 'jsno'"),
        (["rank.samples=1"], "must be a whole number of 2 or more"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_read(
    words: list[str], said: str, talker: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignkit.stages.rank.run.load", lambda *_, **__: pytest.fail("the model was read"))
    with pytest.raises(RequestError) as caught:
        rank(talker, prompts, tmp_path / "runs", *words)
    assert said in str(caught.value)


def test_the_answer_shows_in_a_pool_of_rewards(talker: Path, tmp_path: Path) -> None:
    """Exact answers and a penalty on length, each kept apart beside their sum."""
    data = write(tmp_path / "p.jsonl", [{"prompt": "a" * n, "answer": str(n)} for n in range(2, 8)])
    result = rank(talker, data, tmp_path / "runs", "rank.reward=[exact,{name: length, weight: -0.1}]")
    run = Path(result["run"])
    for line in read(run / "scores.jsonl"):
        for total, exact, length in zip(line["reward"], line["parts"]["exact"], line["parts"]["length"], strict=True):
            assert total == pytest.approx(exact - 0.1 * length)
    assert set(result["metrics"]["rank"]["parts"]) == {"exact", "length"}


def test_prompts_that_are_too_long_are_counted(
    talker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "p.jsonl", [{"prompt": "a" * n} for n in [*range(3, 22), 600]])
    result = rank(talker, data, tmp_path / "runs", "rank.reward=[{name: length, unit: characters}]")
    assert result["metrics"]["rank"]["prompts"] == 19
    assert "prompts of at most 496 tokens: the model reads 512, answers included" in capsys.readouterr().err
    assert result["metrics"]["data"]["dropped"] == {"longer than data.max_length=496": 1}


def test_iterative_dpo_in_the_shell(talker: Path, prompts: Path, tmp_path: Path) -> None:
    """Two rounds on a tiny model: the reward of its answers rises, and starting again makes nothing anew."""
    import os
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "alignkit").write_text(f'#!/bin/sh\nexec {sys.executable} -m alignkit "$@"\n')
    (bin_ / "alignkit").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "PYTHONPATH": str(root)}
    taste = "[{name: length, unit: characters}]"
    both = [f"run.root={tmp_path / 'runs'}", "model.dtype=fp32"]
    dpo = [
        "adapter=none",
        "data.holdout=0",
        "data.max_length=128",
        "evaluation.rows=0",
        "batch.size=8",
        "optimizer.learning_rate=2e-3",
        "schedule.epochs=3",
    ]
    words = [
        "rank.samples=8",
        "rank.max_new_tokens=16",
        "rank.unfinished=keep",
        "rank.pairs=best-rest",
        *both,
        "--",
        *both,
        *dpo,
    ]

    def start(rounds: int) -> subprocess.CompletedProcess[str]:
        command = [str(root / "scripts" / "iterative_dpo.sh"), str(talker), str(prompts), taste, str(rounds), *words]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=500)

    first_round = start(1)
    assert first_round.returncode == 0, first_round.stderr
    done = start(2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 2
    last = Path(done.stdout.strip())
    assert done.stdout.count("\n") == 1 and done.stdout != first_round.stdout and (last / "config.json").exists()
    means = []
    for run in sorted((tmp_path / "runs").glob("rank-*"), key=lambda place: place.stat().st_ctime):
        recipe = (run / "recipe.yaml").read_text()
        means.append(
            (recipe.count("dpo-"), json.loads((run / "manifest.json").read_text())["metrics"]["rank"]["reward"]["mean"])
        )
    [first] = [mean for count, mean in means if not count]
    [second] = [mean for count, mean in means if count]
    assert second > first


def test_a_function_that_is_not_there_is_told_before_anything_is_drawn(
    talker: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone_r3.py").write_text("def here(**rest):\n    return []\n")
    with pytest.raises(RequestError, match="has no attribute 'there'"):
        rank(talker, prompts, tmp_path / "runs", "rank.reward=gone_r3:there", allow_code=True)
    assert "drawing" not in capfd.readouterr().err


def test_why_answers_got_no_reward_is_said_once(
    talker: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "never_r4.py").write_text("def score(**rest):\n    raise KeyError('scale')\n")
    words = ("rank.reward=never_r4:score", "rank.on_error=skip")
    with pytest.raises(RunError, match="no pairs"):
        rank(talker, prompts, tmp_path / "runs", *words, allow_code=True)
    said = capfd.readouterr().err
    assert said.count("got no reward") == 1
    assert "40 of the answers got no reward" in said and "raised KeyError: 'scale'" in said


def test_a_reward_model_is_called_by_its_name(prompts: Path, tmp_path: Path, talker: Path) -> None:
    words = ("rank.reward={name: judge, model: " + str(talker) + "}", "rank.max_new_tokens=4")
    result = rank(talker, prompts, tmp_path / "runs", *words)
    assert f"judging by judge {talker}" in (Path(result["run"]) / "log.txt").read_text()
