"""Which answers become pairs, and the figures of a ranking, against plain numpy and hand-made cases."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from alignkit.runs.journal import Journal
from alignkit.stages.rank import pairing, report
from alignkit.stages.rank.pairing import Answer, Rule, pair


def answers(*rewards: float, texts: str = "abcdefgh", unfinished: str = "") -> list[Answer]:
    return [
        Answer(text, 3 + at, text not in unfinished, reward)
        for at, (text, reward) in enumerate(zip(texts, rewards, strict=False))
    ]


def names(found: pairing.Pairing) -> list[str]:
    return [better.text + worse.text for better, worse in found.pairs]


@pytest.mark.parametrize(
    ("rule", "expected", "left_out"),
    [
        ("best-worst", ["ba"], {}),
        ("best-rest", ["bc", "bd", "ba"], {}),
        ("all", ["bc", "bd", "ba", "ca", "da"], {pairing.TIE: 1}),
    ],
)
def test_the_rules(rule: Rule, expected: list[str], left_out: dict[str, int]) -> None:
    found = pair(answers(1, 4, 2, 2), rule, margin=0, keep_unfinished=False)
    assert names(found) == expected and found.left_out == left_out


def test_a_margin_is_the_least_difference() -> None:
    found = pair(answers(1, 2, 3), "all", margin=2, keep_unfinished=False)
    assert names(found) == ["ca"] and found.left_out == {pairing.CLOSE: 2}


def test_ties_are_never_pairs_and_are_counted() -> None:
    found = pair(answers(2, 2, 2), "best-worst", margin=0, keep_unfinished=False)
    assert not found.pairs and found.left_out == {pairing.TIE: 1, pairing.TIED: 1}


def test_what_cannot_stand_in_a_pair() -> None:
    given = answers(9, 5, math.nan, 4, 3, 8, texts="abcd e", unfinished="a")
    given += [Answer("b", 9, True, 5)]
    found = pair(given, "all", margin=0, keep_unfinished=False)
    assert names(found) == ["bd", "be", "de"] or names(found) == ["eb", "ed", "bd"]
    assert found.left_out == {
        pairing.UNFINISHED: 1,
        pairing.FAILED: 1,
        pairing.EMPTY: 1,
        pairing.REPEATED: 1,
    }
    kept = pair(given, "best-worst", margin=0, keep_unfinished=True)
    assert kept.pairs[0][0].text == "a" and pairing.UNFINISHED not in kept.left_out


def test_one_answer_makes_no_pair() -> None:
    found = pair(answers(1, 2, unfinished="b"), "all", margin=0, keep_unfinished=False)
    assert not found.pairs and found.left_out == {pairing.UNFINISHED: 1, pairing.ALONE: 1}


def test_the_correlation_is_within_prompts() -> None:
    """Between prompts the lengths go the other way, and that plays no part."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 50, (30, 5)).astype(float)
    rewards = 0.3 * tokens + rng.normal(size=(30, 5)) * 4 - 10 * tokens.mean(1, keepdims=True)
    rewards[3, 1] = rewards[7] = math.nan
    known = [(r[~np.isnan(r)], t[~np.isnan(r)]) for r, t in zip(rewards, tokens, strict=True)]
    centred = [(r - r.mean(), t - t.mean()) for r, t in known if len(r) > 1]
    expected = np.corrcoef(np.concatenate([r for r, _ in centred]), np.concatenate([t for _, t in centred]))[0, 1]
    assert report.within_correlation(rewards, tokens) == pytest.approx(expected, abs=1e-9)
    assert expected > 0.5 > 0 > np.corrcoef(rewards[~np.isnan(rewards)], tokens[~np.isnan(rewards)])[0, 1]
    assert report.within_correlation(np.full((4, 3), 0.1), tokens[:4, :3]) is None
    assert report.within_correlation(np.full((4, 3), math.nan), tokens[:4, :3]) is None


def test_figures_of_two_prompts() -> None:
    tally = report.Tally()
    for rewards in ([1.0, 3.0], [2.0, 2.0]):
        given = answers(*rewards, unfinished="b")
        tally.add(given, {"one": rewards}, pair(given, "best-worst", margin=0, keep_unfinished=True))
    found = tally.figures()
    assert (found["prompts"], found["answers"], found["pairs"], found["prompts_with_pairs"]) == (2, 4, 1, 1)
    assert found["tied"] == 0.5 and found["finished"] == 0.5
    assert found["reward"]["mean"] == 2.0 and found["reward"]["deviation"] == pytest.approx(math.sqrt(0.5))
    assert found["best_over_mean"] == 0.5 and found["margin"] == 2.0
    assert (found["chosen_tokens"], found["rejected_tokens"], found["tokens"]) == (4.0, 3.0, 3.5)
    assert sum(found["histogram"]["counts"]) == 4
    said = "\n".join(report.lines(found))
    assert "1 pair from 1 of 2 prompts" in said and "the same reward for 50% of the prompts" in said


def test_a_person_is_warned_of_length_and_of_answers_cut_off() -> None:
    figures = {"length_correlation": 0.6, "finished": 0.2}
    said = report.warnings(figures)
    assert "prefers longer answers (+0.60)" in said[0] and "only 20% of the answers" in said[1]
    assert report.warnings({"length_correlation": -0.1, "finished": 0.9}) == []


def test_a_journal_keeps_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.append([{"number": 2, "x": "ä"}, {"number": 0, "x": math.nan}])
    with path.open("ab") as file:
        file.write(b'{"number": 1, "x": ')
    again = Journal(path)
    assert len(again) == 2 and 2 in again and 1 not in again
    again.append([{"number": 1, "x": 5}])
    assert [line["x"] for line in again.read([0, 1, 2])] == [None, 5, "ä"]
    assert Counter(line["number"] for line in Journal(path).read([0, 1, 2])) == {0: 1, 1: 1, 2: 1}


def test_quantiles_and_counts_are_told_truly() -> None:
    tally = report.Tally()
    for _ in range(2):
        answers = [Answer("a", 1, True, 0.0), Answer("a", 1, True, 0.0), Answer("", 0, True, 0.0)]
        tally.add(answers, {"json": [0.0, 0.0, 0.0]}, pair(answers, "best-worst", margin=0, keep_unfinished=True))
    said = "\n".join(report.lines(tally.figures()))
    assert "10% at most 0, half at most 0, 90% at most 0" in said and "below" not in said
    one = pair([Answer("a", 1, True, 1.0), Answer("a", 1, True, 0.0)], "all", margin=0, keep_unfinished=True)
    alone = report.Tally()
    alone.add([Answer("a", 1, True, 1.0)] * 2, {}, one)
    said = "\n".join(report.lines(alone.figures()))
    assert "left out: 1 answer with the words of another one" in said
    assert "left out: 1 prompt of which fewer than two answers are left" in said
