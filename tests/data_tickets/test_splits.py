"""Train and held-out rows share no sentence template, no product and no number."""

from __future__ import annotations

import json
import re

import pytest

from alignkit.data.tickets import generate
from alignkit.data.tickets.draw import HELDOUT_DIVISOR, Split
from alignkit.data.tickets.frames import expansions
from alignkit.data.tickets.generate import WORDINGS
from alignkit.data.tickets.products import CATALOGUES

LONG_FORMS = (
    ("won't", "will not"),
    ("can't", "cannot"),
    ("n't", " not"),
    ("'m", " am"),
    ("'ve", " have"),
    ("'s", " is"),
)


def plain(sentence: str) -> str:
    """Lower case, long forms, words and slots only: what two sentences are compared by."""
    sentence = sentence.lower()
    for short, long in LONG_FORMS:
        sentence = sentence.replace(short, long)
    return " ".join(re.findall(r"[a-z]+|\{[a-z_]+\}", sentence))


def skeletons(split: Split, seed: int) -> set[str]:
    """The sentences of 400 messages with what was filled in taken out again."""
    found = set()
    for row in generate(400, split, seed):
        answer = json.loads(row["answer"])
        message = row["messages"][0]["content"]
        message = re.sub(rf"\b(my|an?|the|My|An?|The) {re.escape(answer['product'])}", "{it}", message)
        message = message.replace(answer["product"], "{it}").replace("#", "")
        if answer["order"]:
            message = message.replace(answer["order"], "{order}")
        message = re.sub(r"\$\d+", "{price}", message)
        found |= {plain(sentence) for sentence in re.split(r"[.!?:\n]", message)} - {""}
    return found - {"{order}"}  # a number that stands alone


def words(sentence: str) -> set[str]:
    return set(plain(sentence).split())


def test_no_sentence_of_a_held_out_message_has_the_skeleton_of_a_training_sentence() -> None:
    train = skeletons("train", 0) | skeletons("train", 1)
    held_out = skeletons("heldout", 0) | skeletons("heldout", 1)
    assert len(train) > 300
    assert len(held_out) > 150
    assert not train & held_out


def test_no_expansion_of_a_frame_is_in_both_splits() -> None:
    train, held_out = (
        {plain(text) for frame in WORDINGS[split].frames() for text in expansions(frame)}
        for split in ("train", "heldout")
    )
    assert not train & held_out
    inline = [set(WORDINGS[split].order_inline) for split in ("train", "heldout")]
    assert not inline[0] & inline[1]


def test_no_held_out_frame_is_a_training_frame_with_a_word_changed() -> None:
    """Jaccard overlap of the words of longer sentences: below 0.7 is another sentence, not another word."""
    train = [words(text) for frame in WORDINGS["train"].frames() for text in expansions(frame)]
    for frame in WORDINGS["heldout"].frames():
        for text in expansions(frame):
            mine = words(text)
            if len(mine) >= 6:
                nearest = max(train, key=lambda other: len(mine & other) / len(mine | other))
                assert len(mine & nearest) / len(mine | nearest) < 0.7, (text, nearest)


def test_no_part_of_a_product_name_is_in_both_splits() -> None:
    train, held_out = CATALOGUES["train"], CATALOGUES["heldout"]
    for mine, other in (
        (train.stems, held_out.stems),
        (train.endings, held_out.endings),
        (train.kinds, held_out.kinds),
        (train.models, held_out.models),
    ):
        assert not {name.lower() for name in mine} & {name.lower() for name in other}
        assert len(set(mine)) == len(mine)
    assert not set(train.letters) & set(held_out.letters)


def test_no_product_or_number_is_in_both_splits() -> None:
    seen: dict[Split, set[str]] = {"train": set(), "heldout": set()}
    for split in seen:
        for row in generate(1000, split, 5):
            answer = json.loads(row["answer"])
            seen[split] |= {answer["product"], answer["order"] or ""} - {""}
            for number in re.findall(r"\d+", row["messages"][0]["content"]):
                assert (int(number) % HELDOUT_DIVISOR == 0) == (split == "heldout"), row
    assert not seen["train"] & seen["heldout"]


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_no_sentence_stands_for_two_meanings(split: Split) -> None:
    """A person can answer every row only if no frame is in the pools of two labels."""
    wording = WORDINGS[split]
    pools = {
        **wording.problems,
        "refund": wording.refund + wording.refund_not_exchange,
        "no refund": tuple({frame for frames in wording.remedies.values() for frame in frames}),
        "urgent": wording.urgent,
        "relaxed": wording.relaxed,
        "no order": wording.no_order,
    }
    owner: dict[str, str] = {}
    for label, frames in pools.items():
        for frame in frames:
            for text in expansions(frame):
                assert owner.setdefault(plain(text), label) == label, text
