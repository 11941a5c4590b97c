"""What a row promises: it is reproducible, its answer follows from its message, and no label is rare."""

from __future__ import annotations

import collections
import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from alignkit.data.tickets import generate
from alignkit.data.tickets.draw import Split
from alignkit.data.tickets.wording import PROBLEMS

SPLITS: tuple[Split, ...] = ("train", "heldout")
DIGEST = (
    "import hashlib, json; from alignkit.data.tickets import generate; "
    "print(hashlib.sha256(json.dumps([list(generate(50, s, 3)) for s in ('train', 'heldout')]).encode()).hexdigest())"
)


def rows(split: Split, count: int = 600, seed: int = 0) -> list[dict[str, Any]]:
    return list(generate(count, split, seed))


def test_another_process_with_other_hashing_makes_the_same_rows() -> None:
    here = hashlib.sha256(json.dumps([rows(split, 50, 3) for split in SPLITS]).encode()).hexdigest()
    for hash_seed in ("1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        there = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        assert there.stdout.strip() == here


@pytest.mark.parametrize("split", SPLITS)
def test_the_seed_decides_the_rows_and_fewer_rows_are_a_beginning(split: Split) -> None:
    assert rows(split, 20) == rows(split, 80)[:20]
    first, other = ({row["messages"][0]["content"] for row in rows(split, 80, seed)} for seed in (0, 1))
    assert not first & other


def test_a_split_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 'train' nor 'heldout'"):
        next(generate(1, "test"))  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_is_compact_json_that_follows_from_the_message(split: Split) -> None:
    for row in rows(split):
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert assistant["content"] == row["answer"]
        answer = json.loads(row["answer"])
        assert json.dumps(answer, separators=(",", ":")) == row["answer"]
        assert list(answer) == ["product", "order", "problem", "urgency", "refund"]
        message = user["content"]
        assert message.count(answer["product"]) == 1
        assert answer["order"] is None or message.count(answer["order"]) == 1
        assert answer["problem"] in PROBLEMS
        assert answer["urgency"] in ("high", "low")
        assert isinstance(answer["refund"], bool)
        assert not set("[]{}|") & set(message), f"a slot or bracket was left in {message!r}"


@pytest.mark.parametrize("split", SPLITS)
def test_every_label_is_common(split: Split) -> None:
    answers = [json.loads(row["answer"]) for row in rows(split)]
    for key, least in (("problem", 90), ("urgency", 280), ("refund", 280)):
        counts = collections.Counter(answer[key] for answer in answers)
        assert min(counts.values()) >= least, (key, counts)
    without_number = sum(answer["order"] is None for answer in answers)
    assert 90 <= without_number <= 150
    assert len({answer["product"] for answer in answers}) > 400
    # No label gives another away: each problem comes with every urgency and with and without a refund.
    assert len({(answer["problem"], answer["urgency"], answer["refund"]) for answer in answers}) == 6 * 2 * 2


@pytest.mark.parametrize("split", SPLITS)
def test_messages_are_short_and_varied(split: Split) -> None:
    messages = [row["messages"][0]["content"] for row in rows(split)]
    assert len(set(messages)) == len(messages)
    assert max(len(message) for message in messages) <= 330
    openings = collections.Counter(" ".join(message.split()[:3]) for message in messages)
    assert openings.most_common(1)[0][1] <= len(messages) * 0.12
