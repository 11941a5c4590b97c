"""Duplicates, word for word and nearly: what is found, what stays, and that nothing hangs on order or process."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.mixing import duplicates
from alignkit.data.mixing.duplicates import clean, exact, near, near_among
from alignkit.data.mixing.hashes import equal_among, first_equal, smallest
from alignkit.data.mixing.minhash import bands, grams, jaccard, sign, signature, words
from alignkit.data.mixing.near import comparable
from alignkit.data.rows import (
    Completion,
    Conversation,
    Feedback,
    Labelled,
    Preference,
    Prompt,
    Ranking,
    Text,
)


def as_hashes(numbers):
    """Small numbers as hashes: equal where the numbers are."""
    return np.array([[number // 3, number] for number in numbers], dtype=np.uint64).reshape(-1, 2)


def a_text(rng, count=60):
    return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(count))


def changed(text, rng, share):
    """The text with one word in so many replaced, as neighbours: a single gap of 5-grams."""
    found = text.split()
    count = max(1, round(share * len(found)))
    at = rng.randrange(len(found) - count)
    return " ".join([*found[:at], *(f"other{i}{rng.random()}" for i in range(count)), *found[at + count :]])


numbers = st.lists(st.integers(0, 6), max_size=25)


@given(numbers)
def test_exact_keeps_the_first_of_equals(given_numbers):
    found = as_hashes(given_numbers)
    assert first_equal(found).tolist() == [given_numbers.index(number) for number in given_numbers]
    assert exact(found).tolist() == [given_numbers.index(n) == i for i, n in enumerate(given_numbers)]


@given(numbers, numbers)
def test_equal_rows_of_another_set(ours, theirs):
    expected = [theirs.index(number) if number in theirs else -1 for number in ours]
    assert equal_among(as_hashes(ours), as_hashes(theirs)).tolist() == expected


@given(numbers, st.integers(0, 30))
def test_smallest_hashes_as_bytes_sort(given_numbers, count):
    found = as_hashes(given_numbers)
    as_bytes = [row.astype(">u8").tobytes() for row in found]
    expected = sorted(sorted(range(len(found)), key=lambda i: (as_bytes[i], i))[:count])
    assert smallest(found, count).tolist() == expected


def test_a_signature_estimates_the_jaccard_similarity():
    rng = random.Random(0)
    for share in (0.1, 0.3, 0.6):
        errors = []
        for _ in range(60):
            one = a_text(rng, 120)
            other = changed(one, rng, share)
            true = jaccard(set(grams(one).tolist()), set(grams(other).tolist()))
            errors.append((signature(one) == signature(other)).mean() - true)
        assert abs(np.mean(errors)) < 0.02  # unbiased
        assert np.std(errors) < 0.06  # binomial: at most 0.044


def test_grams_are_those_of_words_and_say_where_a_text_ends():
    def sets(text):
        return set(grams(text).tolist())

    assert len(sets("one two three four five six")) == 2
    assert sets("one two three four five six") > sets("one two three four five")
    assert sets("One  two\nTHREE four five") == sets("one two three four five")
    assert len({next(iter(sets(text))) for text in ("", "a", "a b", "b a", "a a", "a b c d", "a b c d e")}) == 7
    assert words("我们 go\u3000ですね") == ["我", "们", "go", "で", "す", "ね"]
    long = " ".join(map(str, range(10_000)))  # more 5-grams than are permuted at a time
    assert (sign(grams(long)) == np.minimum(sign(grams(long)[:5000]), sign(grams(long)[5000:]))).all()


def test_signatures_do_not_depend_on_the_process():
    code = "from alignkit.data.mixing.minhash import signature; print(signature('a b c d e f \\udc80 é').tolist())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{signature(chr(97) + ' b c d e f ' + chr(0xDC80) + ' é').tolist()}\n"}


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_bands_find_pairs_that_are_just_alike(threshold):
    count, rows = bands(threshold)
    assert count * rows <= 128
    assert 1 - (1 - threshold**rows) ** count >= 0.98


def test_near_duplicates_are_found_and_the_first_stays():
    rng = random.Random(1)
    texts = [a_text(rng) for _ in range(60)]
    texts += [changed(text, rng, 0.02) for text in texts[:20]]  # 5 of 56 5-grams are others: similarity 0.84
    texts += [changed(text, rng, 0.2) for text in texts[20:40]]  # similarity 0.55
    texts += [texts[50].upper().replace(" ", "\n"), "", "a b", "", "a b c"]
    found = near(texts, 0.8).tolist()
    assert found[:60] == list(range(60))
    assert found[60:80] == list(range(20))
    assert found[80:100] == list(range(80, 100))
    assert found[100:] == [50, 101, 102, 101, 104]
    assert near(texts, 0.4).tolist()[80:100] == list(range(20, 40))


def test_a_row_points_to_one_that_stays():
    rng = random.Random(2)
    chain = [a_text(rng)]
    for _ in range(12):  # each nearly the one before, the last not at all the first
        chain.append(changed(chain[-1], rng, 0.02))
    found = near(chain, 0.8)
    assert len(set(found.tolist())) > 1
    assert (found[found] == found).all()
    true = [set(grams(text).tolist()) for text in chain]
    assert all(jaccard(true[row], true[twin]) >= 0.8 for row, twin in enumerate(found.tolist()))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=14), st.sampled_from([0.5, 0.8]))
@settings(max_examples=40, deadline=None)
def test_near_says_what_comparing_all_pairs_says(picks, threshold):
    rng = random.Random(3)
    bases = [a_text(rng) for _ in range(4)]
    variants = [[base, *(changed(base, rng, share) for share in (0.02, 0.1, 0.4))] for base in bases]
    texts = [variants[base][variant] for base, variant in picks]
    sets = [set(grams(text).tolist()) for text in texts]
    expected: list[int] = []
    for row, own in enumerate(sets):
        kept = [other for other in range(row) if expected[other] == other]
        expected.append(next((other for other in kept if jaccard(sets[other], own) >= threshold), row))
    assert near(texts, threshold).tolist() == expected


def test_signatures_alone_serve_too():
    rng = random.Random(4)
    texts = [a_text(rng) for _ in range(20)]
    texts += [changed(text, rng, 0.02) for text in texts]
    found = near(np.stack([signature(text) for text in texts]), 0.7).tolist()
    assert found == [*range(20), *range(20)]


def test_different_answers_to_one_question_and_questions_about_one_text_are_kept():
    rng = random.Random(5)
    document = a_text(rng, 400)
    rows = [(f"{document}\nWhat is {n} about?", a_text(rng, 12)) for n in range(5)]
    assert near(rows, 0.8).tolist() == list(range(5))
    rows.append((rows[2][0], rows[2][1].upper()))
    assert near(rows, 0.8).tolist() == [0, 1, 2, 3, 4, 2]


def test_a_long_instruction_that_all_rows_share_makes_no_duplicates():
    rng = random.Random(6)
    instruction = a_text(rng, 300)
    rows = [(f"{instruction}\n{a_text(rng, 20)}", "yes") for _ in range(200)]
    rows.append(rows[17])
    found = near(rows, 0.8).tolist()
    assert found == [*range(200), 17]
    several = [a_text(rng, 300) for _ in range(10)]
    rows = [(f"{several[n % 10]}\n{a_text(rng, 20)}", "yes") for n in range(1999)]
    assert near(rows, 0.8).tolist() == list(range(1999))
    same = [a_text(rng, 40) for _ in range(3)] * 50  # nothing but what many share: still told apart
    assert near(same, 0.8).tolist() == [0, 1, 2] * 50


def test_many_copies_of_a_text_are_no_instruction():
    rng = random.Random(9)
    texts = [a_text(rng) for _ in range(600)]
    texts += [changed(texts[5], rng, 0.02) for _ in range(15)]
    assert near(texts, 0.8).tolist() == [*range(600), *[5] * 15]


def test_nearly_equal_rows_of_another_set():
    rng = random.Random(7)
    held = [a_text(rng) for _ in range(6)]
    held += [changed(held[0], rng, 0.02)]  # held-out rows that are alike both stay
    texts = [a_text(rng), changed(held[3], rng, 0.02), a_text(rng), held[6]]
    texts += [texts[0]]  # a double among ourselves is none of theirs
    assert near_among(texts, held, 0.8).tolist()[:3] == [-1, 3, -1]
    assert near_among(texts, held, 0.8).tolist()[3] in (0, 6)
    assert near_among(texts, held, 0.8).tolist()[4] == -1
    assert near_among(texts, [], 0.8).tolist() == [-1] * 5
    assert near_among([], held, 0.8).tolist() == []
    assert near([], 0.8).tolist() == []
    with pytest.raises(ValueError, match="threshold"):
        near(texts, 0)


def test_texts_are_read_on_demand():
    class Lazy:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return ["a b c d e f", "x y z", "a b c d e f"][index]

    assert near(Lazy(), 0.8).tolist() == [0, 1, 0]


def turns(*said, system="Be brief."):
    roles = ["user", "assistant"] * 4
    return [{"role": "system", "content": system}] + [
        {"role": role, "content": text} for role, text in zip(roles, said, strict=False)
    ]


def test_what_a_document_says():
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1}}}]}
    assert comparable(Conversation(turns("q", "a", "r", "b"), "x")) == ("q\nr", "a\nb")
    asked, answered = comparable(Conversation([*turns("q"), call, {"role": "tool", "content": "42"}], "x"))
    assert asked == "q\n42"
    assert '"name": "f"' in answered
    assert comparable(Completion("p", "c", "x")) == ("p", "c")
    assert comparable(Text("t", "x")) == ("", "t")
    assert comparable(Preference(turns("q"), "good", "bad", "x")) == ("q", "good\nbad")
    assert comparable(Feedback("p", "c", True, "x")) != comparable(Feedback("p", "c", False, "x"))
    assert comparable(Ranking("p", ("a", "b"), "x")) == ("p", "a\nb")
    assert comparable(Prompt("p", "x")) == ("p", "")
    assert comparable(Labelled("t", "l", "x")) == ("t", "l")


def test_cleaning_says_what_goes_and_why():
    rng = random.Random(8)
    a, b, c, d = (a_text(rng) for _ in range(4))
    texts = [a, b, a, changed(b, rng, 0.02), c, d, changed(c, rng, 0.02)]
    numbers = as_hashes([0, 1, 0, 3, 4, 5, 6])
    held_texts, held = [changed(d, rng, 0.02), c], as_hashes([9, 4])

    plain = clean("none", numbers, held)
    assert plain.keep.all()
    assert not plain.dropped
    assert plain.notes == ["1 training row stands among the held-out rows too: their scores will flatter"]

    found = clean("exact", numbers, held)
    assert np.flatnonzero(~found.keep).tolist() == [2, 4]
    assert dict(found.dropped) == {duplicates.SAME: 1, duplicates.HELD_OUT: 1}
    assert (found.twin[2], found.held_out_twin[4]) == (0, 1)
    assert found.notes == ["1 training row stands among the held-out rows too: left out of training"]

    found = clean("near", numbers, held, texts=texts, held_out_texts=held_texts)
    assert np.flatnonzero(found.keep).tolist() == [0, 1]
    assert found.twin.tolist() == [-1, -1, 0, 1, -1, -1, -1]
    assert found.held_out_twin.tolist() == [-1, -1, -1, -1, 1, 0, 1]
    assert dict(found.dropped) == {
        duplicates.SAME: 1,
        duplicates.NEARLY: 1,
        duplicates.HELD_OUT: 1,
        duplicates.NEARLY_HELD_OUT: 2,
    }
    assert found.notes == ["3 training rows stand among the held-out rows too (2 of them nearly): left out of training"]
    with pytest.raises(ValueError, match="texts"):
        clean("near", numbers, held)
    assert clean("near", numbers[:0], held[:0], texts=[], held_out_texts=[]).notes == []
