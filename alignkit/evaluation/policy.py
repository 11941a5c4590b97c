"""What an evaluation of a policy that learns from rewards found. No torch in here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from alignkit.evaluation.scores import Figure, Graded, to_json

KIND = "policy"
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class PolicyScores:
    """Answers of one policy to held-out prompts. What the values of an answer are is the rewards' to say."""

    headlines: ClassVar[tuple[str, ...]] = ("true_reward", "reward")

    rows: int
    """Held-out prompts that were answered, once each."""
    true_name: str
    """What the true metric is called."""
    true_values: list[float]
    """The true metric of each prompt's answer; NaN where it gave none."""
    share: bool = False
    """Whether the true metric says right or wrong of each answer (1 or 0, also before training), so that its mean is a
    share."""
    true_reward: float
    """Mean of the true metric."""
    true_reward_interval: Interval
    change: float | None = None
    """Mean change of the true metric, prompt by prompt, since before training. None: there is nothing to compare."""
    change_interval: Interval | None = None
    """95% bootstrap interval of it over the prompts."""
    apart: bool
    """Whether the true metric is another than what is optimized."""
    reward: float
    """Mean of what is optimized."""
    reward_interval: Interval
    reward_change: float | None = None
    """Mean change of what is optimized, prompt by prompt."""
    reward_change_interval: Interval | None = None
    reward_values: list[float]
    parts: dict[str, float] = field(default_factory=dict)
    """Mean of each of the optimized rewards, without its weight."""
    kl: float
    """KL(policy || reference) in nats an answer, of drawn answers; see ``drawn.py``. 0: it is the reference."""
    kl_interval: Interval
    kl_per_token: float
    length: float
    """Mean tokens of a drawn answer."""
    cut: float
    """Share of the drawn answers that did not end within `max_new_tokens`."""
    repetition: float
    """Mean share of an answer's runs of four tokens that stood in it before."""
    greedy: bool = False
    """Whether the likeliest answers were judged, and not the drawn ones."""
    answers: list[Graded] = field(default_factory=list)
    """Answers to show, of those that were judged."""
    warnings: list[str] = field(default_factory=list)
    """What looked wrong, in words: while training, and in these scores."""
    seconds: float = 0.0

    def figures(self) -> list[Figure]:
        # The model that training starts from is its own reference: nothing was measured.
        measured = self.kl_interval if self.kl_interval != (0.0, 0.0) else None
        named = f"true metric ({self.true_name})" if self.apart else f"reward ({self.true_name})"
        points: Literal["points", "difference"] = "points" if self.share else "difference"
        found = [
            _mean(named, self.true_reward, self.true_reward_interval, change=points),
        ]
        if self.apart:
            found.append(_mean("optimized reward", self.reward, self.reward_interval))
        if len(self.parts) > 1:
            found += [_mean(f"  {name.rpartition('/')[2]}", value) for name, value in self.parts.items()]
        found += [
            Figure(name="KL to reference (nats)", value=self.kl, interval=measured),
            Figure(name="  a token", value=self.kl_per_token),
            Figure(name="answer length (tokens)", value=self.length),
            Figure(name="  not ended", value=self.cut, change="points"),
            Figure(name="  repeated", value=self.repetition, change="points"),
        ]
        if self.change is not None:
            found.append(_change(named, self.change, self.change_interval, points=self.share))
        if self.apart and self.reward_change is not None:
            found.append(_change("optimized reward", self.reward_change, self.reward_change_interval, points=False))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON; ``from_dict`` gives the scores back."""
        return {"kind": KIND, **_plain(asdict(self)), "seconds": round(self.seconds, 3), "compare": list(COMPARED)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PolicyScores:
        """The inverse of `as_dict`."""
        given = {name: _back(name, value) for name, value in plain.items() if name in cls.__dataclass_fields__}
        given["answers"] = [Graded(**one) for one in plain["answers"]]
        return cls(**given)


COMPARED = ("true_reward", "change", "reward", "kl", "length", "cut", "training.seconds")
"""What a table of several runs shows, in that order; the last one is looked for among the run's metrics."""

_WORDS = ("true_name", "answers", "warnings")


def _mean(
    name: str, value: float, interval: Interval | None = None, *, change: Literal["points", "difference"] = "difference"
) -> Figure:
    """What answers were worth; a dash where the rewards gave no number for any of them."""
    if math.isnan(value):
        return Figure(name=name, value=value, text="–", better="higher", change=change)
    return Figure(name=name, value=value, interval=interval, better="higher", change=change)


def _change(name: str, value: float, interval: Interval | None, *, points: bool) -> Figure:
    """What changed, prompt by prompt."""
    return Figure(
        name=f"change of {name}",
        value=value,
        text=f"{100 * value:+.0f} points" if points else f"{value:+.3f}",
        change="points" if points else "",
        interval=interval,
        signed=True,
    )


def _plain(value: Any) -> Any:
    """Floats as JSON has them, tuples as lists, all the way down."""
    if isinstance(value, float):
        return to_json(value)
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _back(name: str, value: Any) -> Any:
    """What `_plain` made, as it was."""
    if name in _WORDS:
        return value
    if isinstance(value, dict):
        return {key: float(one) for key, one in value.items()}
    if isinstance(value, list):
        numbers = [float(one) for one in value]
        return tuple(numbers) if name.endswith("interval") else numbers
    return float(value) if isinstance(value, str) else value
