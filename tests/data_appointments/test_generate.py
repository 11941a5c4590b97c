"""Appointments: right answers in both splits, nothing shared between them, the same rows in every process."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from alignkit.data.appointments import generate
from alignkit.data.appointments.phrases import (
    HELDOUT_FRAMES,
    HELDOUT_OCCASIONS,
    HOURS,
    MONTHS,
    TRAIN_FRAMES,
    TRAIN_OCCASIONS,
)


def read_time(text: str) -> tuple[int, int]:
    """A second reading of the times, written apart from the generator."""
    if match := re.search(r"\b(\d{1,2}):(\d\d) (am|pm)|\b(\d{1,2}) (am|pm)\b", text):
        hour, minute, half = (match[1], match[2], match[3]) if match[1] else (match[4], "00", match[5])
        return int(hour) % 12 + (12 if half == "pm" else 0), int(minute)
    if match := re.search(r"\b(\d{1,2}):(\d\d)\b", text):
        return int(match[1]), int(match[2])
    match = re.search(r"(\w+) o'clock in|(quarter past|half past|quarter to) (\w+) in", text, re.IGNORECASE)
    assert match, text
    hour = HOURS.index((match[1] or match[3]).lower())
    minute = {None: 0, "quarter past": 15, "half past": 30, "quarter to": 45}[match[2].lower() if match[2] else None]
    part = re.search(r"in the (morning|afternoon|evening)", text)
    assert part
    hour -= minute == 45
    hour %= 12
    return hour + (0 if part[1] == "morning" else 12), minute


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_answer_is_what_the_sentence_says(split) -> None:
    for row in generate(600, split):
        message, answer = (turn["content"] for turn in row["messages"])
        assert row["answer"] == answer
        match = re.fullmatch(r"(\d\d)-(\d\d) (\d\d):(\d\d) (.+)", answer)
        assert match
        assert MONTHS[int(match[1]) - 1] in message
        assert re.search(rf"\b{int(match[2])}(st|nd|rd|th)?\b", message)
        assert read_time(message) == (int(match[3]), int(match[4])), message
        assert match[5].lower() in message.lower()


def test_the_splits_share_no_frame_and_no_occasion() -> None:
    assert not set(TRAIN_FRAMES) & set(HELDOUT_FRAMES)
    assert not set(TRAIN_OCCASIONS) & set(HELDOUT_OCCASIONS)
    train = {row["answer"].split(" ", 2)[2] for row in generate(300, "train")}
    held_out = {row["answer"].split(" ", 2)[2] for row in generate(300, "heldout")}
    assert len(train) == len(TRAIN_OCCASIONS) and len(held_out) == len(HELDOUT_OCCASIONS)
    assert not train & held_out


def test_fewer_rows_are_the_beginning_of_more_and_every_process_draws_the_same() -> None:
    rows = list(generate(50, "train"))
    assert list(generate(20, "train")) == rows[:20]
    assert list(generate(20, "train", seed=1)) != rows[:20]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    assert digest[:16] == "3ece2a1089855fbc"
    with pytest.raises(ValueError, match="neither 'train' nor 'heldout'"):
        next(generate(1, "test"))  # type: ignore[arg-type]
