"""teacher-answers, from prompts to rows that another model is trained on: a teacher's answers, or its reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import alignkit
from alignkit.config.sections import Data, Model
from alignkit.data.prepare import prepare
from alignkit.data.rows import Completion, Conversation, Text
from alignkit.errors import RequestError, RunError
from alignkit.evaluation.sampling import sample_answers
from alignkit.models.loading import load
from alignkit.runs.journal import Journal
from alignkit.teachers.rationales import reasoned
from tests.teachers.fake_server import Answer, FakeServer
from tests.tiny import build_tokenizer, save_tiny, write_chats

BASICS = ("answers.max_new_tokens=16", "answers.unfinished=keep", "teacher.dtype=fp32", "data.max_length=200")


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose answers differ from each other."""
    return save_tiny(tmp_path_factory.mktemp("talker") / "model", initializer_range=0.3)


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl", 12)


def read(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def run(recipe: str, teacher: Path, data: Path, root: Path, *more: str) -> dict[str, Any]:
    return alignkit.train(recipe, [f"teacher={teacher}", f"data={data}", f"run.root={root}", *BASICS, *more])


def test_the_answers_are_the_teachers_and_can_be_trained_on(talker: Path, chats: Path, tmp_path: Path) -> None:
    result = run("teacher-answers", talker, chats, tmp_path / "runs")
    assert Path(result["path"]).name == "answers.jsonl"
    rows = read(result["path"])
    loaded = load(Model(name=str(talker), dtype="fp32"))
    prompts = [row["messages"][:-1] for row in read(chats)]
    told = sample_answers(loaded.model, loaded.tokenizer, prompts, max_new_tokens=16, temperature=0, seed=42, batch=4)
    expected = [
        [*prompt, {"role": "assistant", "content": one.text}] for prompt, [one] in zip(prompts, told, strict=True)
    ]
    assert [row["messages"] for row in rows] == [one for one in expected if one[-1]["content"].strip()]
    assert result["metrics"]["answers"]["rows"] == len(rows) > 8
    learned = prepare(Data(name=result["path"], holdout=0), build_tokenizer())
    assert len(learned.train) == len(rows)


def test_several_answers_each_once_and_finished_ones_only(talker: Path, chats: Path, tmp_path: Path) -> None:
    words = ("answers.samples=4", "answers.temperature=1", "answers.top_p=0.9")
    result = run("teacher-answers", talker, chats, tmp_path / "runs", *words)
    by_prompt: dict[str, list[str]] = {}
    for row in read(result["path"]):
        by_prompt.setdefault(row["messages"][0]["content"], []).append(row["messages"][1]["content"])
    assert all(len(texts) == len(set(texts)) for texts in by_prompt.values())
    assert max(map(len, by_prompt.values())) > 1
    figures = result["metrics"]["answers"]
    assert figures["answers"] == 48 and figures["rows"] + sum(figures["left_out"].values()) == 48
    written = [one for line in read(Path(result["run"]) / "written.jsonl") for one in line["answers"]]
    finished = sum(one["finished"] for one in written)
    assert figures["finished"] == finished / 48
    words = (*words, "answers.unfinished=drop")
    if finished:
        assert (
            run("teacher-answers", talker, chats, tmp_path / "runs", *words)["metrics"]["answers"]["rows"] <= finished
        )
    else:
        with pytest.raises(RunError, match="48 answers that the limit cut off"):
            run("teacher-answers", talker, chats, tmp_path / "runs", *words)


def test_plain_prompts_stay_plain(talker: Path, tmp_path: Path) -> None:
    data = tmp_path / "plain.jsonl"
    data.write_text("".join(json.dumps({"prompt": "a" * n, "completion": "b"}) + "\n" for n in range(1, 6)))
    rows = read(run("teacher-answers", talker, data, tmp_path / "runs")["path"])
    assert all(set(row) == {"prompt", "completion"} for row in rows)
    assert {row["prompt"] for row in rows} <= {"a" * n for n in range(1, 6)}


def test_cut_off_anywhere_it_goes_on(
    talker: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("answers.batch=3", "answers.temperature=1")
    whole = Path(run("teacher-answers", talker, chats, tmp_path / "whole", *words)["path"]).read_bytes()
    untouched = Journal.append

    class Killed(BaseException):
        pass

    def killing(self: Journal, lines: Any) -> None:
        untouched(self, lines)
        with self.path.open("ab") as file:
            file.write(b'{"number": 0, "answ')
        raise Killed

    monkeypatch.setattr(Journal, "append", killing)
    for _ in range(4):
        with pytest.raises(Killed):
            run("teacher-answers", talker, chats, tmp_path / "cut", *words)
    monkeypatch.setattr(Journal, "append", untouched)
    other = ("answers.batch=5", "answers.temperature=1")
    assert Path(run("teacher-answers", talker, chats, tmp_path / "cut", *other)["path"]).read_bytes() == whole


def test_reasons_beside_the_answers_of_the_data(chats: Path, talker: Path, tmp_path: Path) -> None:
    """The server sees the question, the answer and the instruction; the rows keep prompt and answer as they were."""

    def answer(path: str, body: dict[str, Any]) -> Answer:
        said = body["messages"][-1]["content"]
        return 200, {"choices": [{"message": {"content": f" Because: {said} "}, "finish_reason": "stop"}]}

    with FakeServer(answer) as server:
        asked = (
            "answers.instruction=Why is it {answer}?",
            f"answers.server.url={server.url}",
            "answers.server.model=big",
        )
        result = run("teacher-rationales", talker, chats, tmp_path / "runs", *asked)
        assert {body["model"] for _, body, _ in server.requests} == {"big"}
    assert Path(result["path"]).name == "rationales.jsonl"
    rows = read(result["path"])
    given = {row["messages"][0]["content"]: row["messages"] for row in read(chats)}
    assert len(rows) == len(given)
    for row in rows:
        question = row["messages"][0]["content"]
        assert row["messages"] == given[question]
        assert row["rationale"] == f"Because: {question}\n\nWhy is it {question.upper()}?"
    learned = prepare(Data(name=result["path"], holdout=0), build_tokenizer())
    assert len(learned.train) == len(rows), "rows with a reason beside them are rows to train on"


def test_reasons_from_a_model_here(talker: Path, chats: Path, tmp_path: Path) -> None:
    rows = read(run("teacher-rationales", talker, chats, tmp_path / "runs", "data.max_length=400")["path"])
    assert rows and all(row["rationale"].strip() == row["rationale"] for row in rows)


def test_what_is_asked_of_each_kind_of_row() -> None:
    tokenizer = build_tokenizer()
    plain = reasoned(Completion("2+2=", "4", "f line 1"), tokenizer, "Why {answer}?")
    assert plain.asked.prompt == "2+2=\n\nWhy 4?" and plain.row("r") == {
        "prompt": "2+2=",
        "completion": "4",
        "rationale": "r",
    }
    tools = [{"type": "function", "function": {"name": "f"}}]
    spoken = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "a2 {answer}"},
    ]
    found = reasoned(Conversation(spoken, "f line 2", tools=tools), tokenizer, "Why {answer}?")
    assert found.asked.prompt == [*spoken[:2], {"role": "user", "content": "again\n\nWhy a2 {answer}?"}]
    assert found.row("r") == {"messages": spoken, "tools": tools, "rationale": "r"}
    with pytest.raises(RequestError, match="f line 3: is raw text"):
        reasoned(Text("words", "f line 3"), tokenizer, "Why?")
    with pytest.raises(RequestError, match="f line 4: has no answer in words"):
        reasoned(Conversation([{"role": "user", "content": "q"}], "f line 4"), tokenizer, "Why?")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["answers.samples=2"], "2 answers at temperature 0 are all the same"),
        (["answers.instruction=x"], "prompts are answered as they stand"),
        (["answers.max_new_tokens=510"], "leave no room for a prompt: the teacher reads 512"),
        (["answers.server.url=host"], "no address of a server"),
    ],
)
def test_refused(talker: Path, chats: Path, tmp_path: Path, more: list[str], told: str) -> None:
    with pytest.raises(RequestError, match=told):
        run("teacher-answers", talker, chats, tmp_path / "runs", *more)
