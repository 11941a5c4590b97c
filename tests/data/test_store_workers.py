"""Several processes make the same store as one, fail the same way, and leave nothing behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignkit.config.sections import Data
from alignkit.data.encoding.fast_tokens import FastTokens
from alignkit.data.encoding.outline import Outlines, OutlinesDiffer
from alignkit.data.encoding.packed import Tokens
from alignkit.data.encoding.rendered import Rendered
from alignkit.data.formats.converter import plan
from alignkit.data.reading.parts import parts, read_part
from alignkit.data.reading.places import locate
from alignkit.data.rows import Conversation, Row
from alignkit.data.store import ingest, pipeline
from alignkit.data.store.ingest import Ingested
from alignkit.errors import Fault, RequestError, RunError
from alignkit.runs.digests import file_digest
from tests.tiny import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def small_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(ingest, "BLOCK", 2_000)
    monkeypatch.setattr(ingest, "WORTH_WORKERS", 4_000)


def chats(path: Path, broken: dict[int, str] | None = None, rows: int = 300) -> Path:
    lines = []
    for number in range(1, rows + 1):
        turns = [
            {"role": "user", "content": f"question {number}"},
            {"role": "assistant", "content": "ok " * (number % 9 + 1)},
        ]
        lines.append((broken or {}).get(number) or json.dumps({"messages": turns}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, processes: int, **options: Any) -> Ingested:
    section = Data(name=str(path), processes=processes, **options)
    return ingest.ingest(section.parts()[0], section, build_tokenizer(), digest_file=file_digest)


def contents(found: Ingested) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in found.store.path.iterdir()}


def test_three_processes_write_the_same_bytes_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = chats(tmp_path / "chats.jsonl", {7: "{", 250: '"text"'})
    three = read(path, 3, on_error="skip", max_length=60)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    one = read(path, 1, on_error="skip", max_length=60)
    assert contents(one) == contents(three)
    assert one.tally == three.tally and three.tally.skipped == 2
    assert not multiprocessing.active_children()


def test_the_first_fault_in_row_order_is_raised_though_a_later_part_is_done_sooner(tmp_path: Path) -> None:
    path = chats(tmp_path / "chats.jsonl", {200: "[", 290: "{"})
    errors = []
    for processes in (1, 3):
        with pytest.raises(RequestError) as caught:
            read(path, processes)
        errors.append(str(caught.value))
    assert errors[0] == errors[1] and "line 200" in errors[0]
    assert not multiprocessing.active_children()
    assert not list((tmp_path / "cache" / "alignkit" / "data").glob("*/"))


def test_a_worker_that_is_killed_is_an_error_and_not_a_wait_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = os.getpid()

    def killed(self: pipeline.Pipeline, rows: Any, packed: Any) -> None:
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(pipeline.Pipeline, "_chunk", killed)
    with pytest.raises(RunError, match="signal 9"):
        read(chats(tmp_path / "chats.jsonl"), 2)
    assert not multiprocessing.active_children()


def test_an_error_of_the_program_itself_is_the_same_error_in_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(self: pipeline.Pipeline, rows: Any, packed: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(pipeline.Pipeline, "_chunk", wrong)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        read(chats(tmp_path / "chats.jsonl"), 2)


def test_a_job_can_be_sent_where_processes_are_not_forked(tmp_path: Path) -> None:
    section = Data(name=str(chats(tmp_path / "chats.jsonl", rows=20)))
    [part] = parts(locate(section.name))
    [first, *_] = read_part(part)
    assert isinstance(first, Row)
    job = pipeline.Job(plan(section.parts()[0], "demonstration", first), section, build_tokenizer())
    here, there = pipeline.Pipeline(job), pipeline.Pipeline(pickle.loads(pickle.dumps(job)))
    assert pickle.dumps(here.run(part)) == pickle.dumps(there.run(pickle.loads(pickle.dumps(part))))


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("way", ["tokens", "texts"])
def test_a_short_way_that_was_wrong_late_means_that_all_is_made_anew_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, way: str
) -> None:
    path = chats(tmp_path / "chats.jsonl")
    expected = contents(read(path, 1))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    if way == "tokens":
        whole_row = FastTokens._row

        def wrong(self: FastTokens, row: Rendered) -> Tokens:
            tokens = whole_row(self, row)
            return replace(tokens, ids=tokens.ids[2:] + tokens.ids[:2]) if row.where.endswith(" 140") else tokens

        monkeypatch.setattr(FastTokens, "_row", wrong)
    else:
        whole_render = Outlines.render

        def differs(self: Outlines, documents: Sequence[Conversation]) -> list[list[Rendered] | Fault]:
            if self.on and any(document.where.endswith(" 140") for document in documents):
                raise OutlinesDiffer("line 140")
            return whole_render(self, documents)

        monkeypatch.setattr(Outlines, "render", differs)
    assert contents(read(path, processes)) == expected


CHILD = """
import sys, time
from pathlib import Path
from alignkit.data.encoding.fast_tokens import FastTokens
from alignkit.data.encoding.outline import Outlines, OutlinesDiffer
from alignkit.data.encoding.packed import Tokens
from alignkit.data.encoding.rendered import Rendered
from alignkit.data.formats.converter import plan
from alignkit.data.reading.parts import parts, read_part
from alignkit.data.reading.places import locate
from alignkit.data.rows import Conversation, Row
from alignkit.data.store import ingest, pipeline
from tests.data import test_store_workers as here
ingest.BLOCK, ingest.WORTH_WORKERS = 2_000, 4_000
whole = pipeline.Pipeline._chunk
def slow(self, rows, packed):
    print("working", flush=True)
    time.sleep(0.2)
    whole(self, rows, packed)
pipeline.Pipeline._chunk = slow
here.read(Path(sys.argv[1]), 2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_the_next_one_reads_all(tmp_path: Path, how: signal.Signals) -> None:
    path = chats(tmp_path / "chats.jsonl")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(how)
    process.wait(20)
    # The workers hold the pipe too: it ends when the last of them has.
    process.stdout.read()
    process.stdout.close()
    deadline = time.time() + 10
    while alive(process.pid) and time.time() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)
    found = read(path, 2)
    assert not found.cached and len(found.store) == 300
    assert [entry.name for entry in found.store.path.parent.iterdir()] == [found.store.path.name]


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
