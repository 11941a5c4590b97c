"""What names, data and answers may do where they are shown: nothing but be read."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter

import pytest
import yaml

from alignkit.console import bounds
from alignkit.console.bounds import TooMuchError, bounded, found
from alignkit.console.plain import printable
from alignkit.rewards.schema import Validator
from tests.hostile.attack import Ground, command

ESCAPES = "\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\u202eevil\u2066\r\x08"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
NAME = "m<script>alert(1)</script>\n---\nlicense: evil\n```\n# [x](javascript:1)"


def test_a_card_shows_names_and_runs_none_of_them(ground: Ground) -> None:
    """A model, a data file and values named to break out of headings, lists, fences and front matter."""
    place = ground.here / NAME.replace("/", "∕")
    shutil.copytree(ground.model, place)
    (place / "README.md").write_text("---\nlicense: 'x\n\n  ---\n\n  <script>'\n---\n", encoding="utf-8")
    rows = ground.here / "d```<img src=x onerror=y>\n## head.jsonl"
    shutil.copy(ground.rows, rows)
    words = [f"model=./{place.name}", f"data=./{rows.name}", "data.system='```\n<b>\n# x'"]
    told = command(["train", "recipe=lora", *ground.sound()[2:], *words], ground.here)
    assert told.code == 0, told.err
    [card] = ground.here.glob("runs/*/model/README.md")
    text = card.read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    assert set(yaml.safe_load(header)) <= {"library_name", "pipeline_tag", "license", "tags", "base_model"}
    assert [line for line in body.splitlines() if line.startswith("# ")] == [body.lstrip("\n").splitlines()[0]]
    fences, headings, opened = [], [], ""
    for line in body.splitlines():
        if mark := re.match(r"`{3,}", line):
            opened = "" if opened and line.strip() == opened else opened or mark.group()
            fences.append(line)
        elif not opened:
            assert not re.search(r"<[A-Za-z/!?]", line), line
            assert not re.search(r"(?<!\\)\]\(javascript", line), line
            headings += [line] if line.startswith("#") else []
    assert not opened and len(fences) % 2 == 0, fences
    assert Counter(headings).most_common(1)[0][1] == 1
    assert not any("head" in line and line.startswith("## ") for line in headings)


@pytest.mark.parametrize("verb", ["preview", "stats", "check"])
def test_data_do_not_steer_the_terminal(ground: Ground, verb: str) -> None:
    rows = [{"prompt": ESCAPES, "completion": ESCAPES}, {"prompt": "a", "completion": 3, ESCAPES: 1}]
    ground.write("x.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    told = command(["data", verb, "./x.jsonl"], ground.here)
    assert not RAW.search(told.out), repr(told.out)
    assert not RAW.search(told.err), repr(told.err)


def test_answers_and_logs_do_not_steer_the_terminal(ground: Ground) -> None:
    """Rows whose texts come back as samples, on the terminal and in the run's log."""
    chats = [
        [{"role": "user", "content": f"{n}{ESCAPES}"}, {"role": "assistant", "content": ESCAPES}] for n in range(8)
    ]
    name = f"x{ESCAPES}.jsonl"
    ground.write(name, "".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    words = ["data.on_error=skip", f"data=./{name}", "evaluation.rows=2", "evaluation.samples=2", "data.max_length=256"]
    told = command(["train", "recipe=lora", *ground.sound(), *words], ground.here)
    assert told.code == 0, told.err
    assert "\\x1b[2J" in told.err
    assert not RAW.search(told.err), repr(told.err[-500:])
    [log] = ground.here.glob("runs/*/log.txt")
    assert not RAW.search(log.read_text(encoding="utf-8"))


def test_printable_keeps_what_people_write() -> None:
    text = "naïve\tqueue\n日本語 🎉 العربية עברית \u200d"
    assert printable(text) == text
    assert printable("\x1b[31m") == "\\x1b[31m"
    assert printable("\u202e\ud800") == "\\u202e\\ud800"


def test_a_pattern_of_a_reward_that_explodes_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "PATTERN_SECONDS", 0.3)
    began = time.monotonic()
    for ask in (
        lambda: found(re.compile(r"(a+)+$"), "a" * 40 + "!"),
        lambda: Validator({"pattern": "(a|a)*$"}).fits("a" * 40 + "!"),
        lambda: Validator({"patternProperties": {"(a|a)*$": {}}}).fits({"a" * 40 + "!": 1}),
    ):
        with pytest.raises(TooMuchError, match=r"took more than 0.3 s on one text"):
            ask()
    assert time.monotonic() - began < 10
    assert found(re.compile("b$"), "ab")


def test_limits_are_nested_and_leave_no_alarm() -> None:
    import signal

    with pytest.raises(TooMuchError, match=r"more than 0.2 s"), bounded(0.2), bounded(5):
        while True:
            pass
    with pytest.raises(TooMuchError, match=r"more than 0.1 s"), bounded(30), bounded(0.1):
        while True:
            pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    with pytest.raises(TooMuchError, match=r"more than 0.1 GB of memory"), bounded(None, 100_000_000):
        bytearray(4_000_000_000)
    bytearray(200_000_000)
