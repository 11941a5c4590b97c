"""The lexicon: what words are worth, and what turns, strengthens and repeats them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.rewards.judged import Judged
from alignkit.rewards.kinds.sentiment import sentiment
from alignkit.rewards.lexicon import BAD, BAD_WORDS, GOOD, GOOD_WORDS, NEITHER, STRONG, worth
from alignkit.rewards.mixture import reward


def test_praise_blame_and_neither() -> None:
    texts = ["What a wonderful day, I love it!", "This is terrible and it hurts.", "The cat sat on the mat.", ""]
    scores = reward("sentiment")([Judged(prompt="p", answer=text) for text in texts])
    assert scores[0] > 0.5 and scores[1] < -0.5 and scores[2:] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "expected"), [("good", 1 / 2), ("wonderful", 2 / 3), ("bad", -1 / 2), ("awful", -2 / 3)]
)
def test_the_formula(text: str, expected: float) -> None:
    assert sentiment(text) == pytest.approx(expected)
    assert sentiment(f"a {text} table") == pytest.approx(expected)


def test_several_words() -> None:
    assert sentiment("good food, bad service") == 0.0
    assert sentiment("good and nice, but slow") == pytest.approx((2 - 1) / (2 + 1 + 1))


def test_negators_turn_and_halve_what_is_near() -> None:
    for text in ("not good", "It isn't good", "it isn’t good", "I have never had a good one", "NOT GOOD"):
        assert sentiment(text) == pytest.approx(-0.5 / 1.5), text
    assert sentiment("not bad") == pytest.approx(0.5 / 1.5)
    assert sentiment("No, it is good") == sentiment("good")
    assert sentiment("not that this would ever be good") == sentiment("good")


def test_boosters() -> None:
    assert sentiment("very good") == pytest.approx(1.5 / 2.5)
    assert sentiment("very, good") == sentiment("good")
    assert sentiment("not very good") == pytest.approx(-0.75 / 1.75)


def test_saying_it_again_gains_nothing() -> None:
    assert sentiment("great " * 50) == sentiment("great")
    assert sentiment("great, nice and kind") > sentiment("great")
    assert sentiment("good. very good") == sentiment("very good") == sentiment("very good. good")


PRAISE = "loved loving inspires inspiring beautifully funnier happiest happily successful helped winning flawless nicer"
BLAME = "boring bored hating disappointment ruined stupidly careless laughable irritated uglier worried"
NOTHING = "made hardware minister thriller window table sing final since kinds hats born"


@pytest.mark.parametrize(("words", "sign"), [(PRAISE, 1), (BLAME, -1), (NOTHING, 0)])
def test_forms_of_words(words: str, sign: int) -> None:
    found = {word: worth(word) for word in words.split()}
    assert {word: (value > 0) - (value < 0) for word, value in found.items()} == dict.fromkeys(found, sign)


def test_the_lists_agree_with_themselves() -> None:
    good, bad, strong = GOOD.split(), BAD.split(), STRONG.split()
    assert not set(good) & set(bad)
    assert len({*good, *bad}) == len(good) + len(bad)
    assert set(strong) <= {*good, *bad}
    for words, sign in ((good, 1), (bad, -1)):
        for word in words:
            assert worth(word) * sign > 0 or word in NEITHER.split(), word
    assert all(worth(word) == 0 for word in NEITHER.split())
    assert all(worth(word) > 0 for word in GOOD_WORDS.split()) and all(worth(word) < 0 for word in BAD_WORDS.split())


@given(st.text())
def test_it_stays_between_its_ends(text: str) -> None:
    assert -1 < sentiment(text) < 1
