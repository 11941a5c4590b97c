"""What an evaluation of rewards found: how well they tell good answers from bad ones, and by what. No torch in here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from alignkit.evaluation.scores import Figure, Graded, to_json

KIND = "rewards"
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where rewards lie."""

    count: int
    mean: float
    deviation: float
    tenth: float
    """A tenth of them is below."""
    median: float
    ninetieth: float
    """A tenth of them is above."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bar of a reliability plot: rows that the rewards were about as sure of."""

    low: float
    high: float
    count: int
    said: float
    """Mean probability that the rewards gave."""
    found: float
    """Share of the rows for which it was so."""


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """What picking the answer with the highest reward out of n is worth, by the answers' true scores."""

    n: int
    prompts: int
    picked: float
    """Mean true score of the picked answers; each n of a prompt's answers counts alike."""
    lift: float
    """The same less the mean of all answers: what a random answer is worth."""
    lift_interval: Interval
    possible: float
    """The lift that the true scores themselves would give."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """Accuracy on one part of a benchmark."""

    rows: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class RewardScores:
    """Rewards of held-out answers, beside what is known of these."""

    headlines: ClassVar[tuple[str, ...]] = ("accuracy", "correlation", "loss", "mean")

    rows: int
    loss: float | None = None
    """The stage's own loss, a row; None outside of it."""
    accuracy: float | None = None
    """How often the better answer of a pair has the higher reward, a tie counted half; of answers that were wanted or
    not how often the sign says so. None: there is nothing to compare."""
    accuracy_interval: Interval | None = None
    area: float | None = None
    """Of wanted and unwanted answers: how often a wanted one is above an unwanted one (area under the ROC curve)."""
    area_interval: Interval | None = None
    correlation: float | None = None
    """Of answers with a score: Pearson's r of reward and score."""
    rank_correlation: float | None = None
    """The same of their ranks (Spearman's)."""
    error: float | None = None
    """Root mean square error, in units of the score; None where rewards are not in these."""
    margin: float | None = None
    """Mean reward of the better answers less that of the worse."""
    calibration_error: float | None = None
    """Expected calibration error: by how much, on average, the probability that rewards give differs from how often it
    was so (Guo et al. 2017, equation 3; ten bins). Of pairs the probability is σ(r_better - r_worse)."""
    reliability: list[Bin] = field(default_factory=list)
    rewards: dict[str, Spread] = field(default_factory=dict)
    """Where they lie: chosen, rejected, wanted, unwanted, or answers."""
    length_correlation: float | None = None
    """Pearson's r of reward and length: over pairs, of the difference in one with the difference in the other,
    each pair taken in both orders."""
    longer_is_better: float | None = None
    """Of pairs of different lengths: the share in which the better answer is the longer one, as the data has it."""
    longer_is_rewarded: float | None = None
    """The share of these in which the longer answer has the higher reward."""
    accuracy_where_shorter: float | None = None
    """Accuracy where the better answer is the shorter one: what is left when length says the opposite."""
    best_of: list[BestOf] = field(default_factory=list)
    parts: dict[str, Part] = field(default_factory=dict)
    """Accuracy on the parts of a benchmark, by their names."""
    sections: dict[str, float] = field(default_factory=dict)
    """RewardBench's sections and `RewardBench`, the mean of the four, weighted as published."""
    win_rate: float | None = None
    """Of answers that a model gave: the share of prompts on which the reward prefers them to the data's best answer, a
    tie counted half."""
    win_rate_interval: Interval | None = None
    answers: list[Graded] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What looks wrong, in words."""
    seconds: float = 0.0

    @property
    def mean(self) -> float | None:
        """Mean reward of all answers."""
        count = sum(spread.count for spread in self.rewards.values())
        return sum(spread.mean * spread.count for spread in self.rewards.values()) / count if count else None

    def figures(self) -> list[Figure]:
        found = [
            _maybe("accuracy", self.accuracy, change="points", better="higher", interval=self.accuracy_interval),
            _maybe("  where the better is shorter", self.accuracy_where_shorter, change="points", better="higher"),
            _maybe("above by chance (AUC)", self.area, change="points", better="higher", interval=self.area_interval),
            _maybe("win rate over the data", self.win_rate, change="points", interval=self.win_rate_interval),
            _maybe("correlation with the score", self.correlation, better="higher"),
            _maybe("  of the ranks", self.rank_correlation, better="higher"),
            _maybe("error (root mean square)", self.error, better="lower"),
            _maybe("reward margin", self.margin, better="higher"),
            _maybe("calibration error", self.calibration_error, change="points", better="lower"),
            _maybe("length correlation", self.length_correlation),
        ]
        for name, spread in self.rewards.items():
            found.append(Figure(name=f"reward of {name}", value=spread.mean))
            found.append(Figure(name="  deviation", value=spread.deviation))
        for one in self.best_of:
            found.append(
                Figure(name=f"lift of the best of {one.n}", value=one.lift, better="higher", interval=one.lift_interval)
            )
        for name, share in self.sections.items():
            found.append(Figure(name=name, value=share, change="points", better="higher"))
        if not self.sections:
            found += [
                Figure(name=f"accuracy on {name}", value=part.accuracy, change="points", better="higher")
                for name, part in self.parts.items()
            ]
        found.append(_maybe("loss", self.loss, better="lower"))
        return [figure for figure in found if figure is not None]

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON; ``from_dict`` gives the scores back."""
        plain: dict[str, Any] = _plain(asdict(self))
        return {
            "kind": KIND,
            **plain,
            "seconds": round(self.seconds, 3),
            "mean": _plain(self.mean),
            "compare": COMPARED,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RewardScores:
        """The inverse of `as_dict`; what is derived is derived again."""
        given = {name: value for name, value in plain.items() if name not in ("kind", "mean", "compare")}
        for name, value in given.items():
            if name.endswith("_interval") and value is not None:
                given[name] = (float(value[0]), float(value[1]))
            elif isinstance(value, str):
                given[name] = float(value)
        given["reliability"] = [Bin(**one) for one in given["reliability"]]
        given["rewards"] = {name: Spread(**_numbers(one)) for name, one in given["rewards"].items()}
        given["best_of"] = [
            BestOf(**{**one, "lift_interval": (float(one["lift_interval"][0]), float(one["lift_interval"][1]))})
            for one in given["best_of"]
        ]
        given["parts"] = {name: Part(**one) for name, one in given["parts"].items()}
        given["answers"] = [Graded(**one) for one in given["answers"]]
        return cls(**given)


COMPARED = ["accuracy", "area", "correlation", "win_rate", "calibration_error", "length_correlation", "margin", "loss"]
"""What a table of several runs shows, in that order."""


def _maybe(name: str, value: float | None, **rest: Any) -> Figure | None:
    return None if value is None else Figure(name=name, value=value, **rest)


def _numbers(plain: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, str) else value for name, value in plain.items()}


def _plain(value: Any) -> Any:
    """Floats as JSON has them, tuples as lists, all the way down."""
    if isinstance(value, float):
        return to_json(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
