"""What a kind of reward is: its name, the options it reads, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignkit.errors import Fault
from alignkit.rewards.judged import EachReward, Judged, Reward
from alignkit.rewards.recipe import RewardSource

if TYPE_CHECKING:
    from alignkit.models.loading import Loaded

MakeReward = Callable[[RewardSource, "Making"], Reward]


@dataclass(frozen=True, kw_only=True)
class Making:
    """What a reward is made for.

    ``batch``: answers that a model judges at once; ``where``: the key that errors name; ``beside``: a model with a
    frozen base in memory, which a reward model may share.
    """

    batch: int = 16
    where: str = "reward"
    beside: Loaded | None = None


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to judge answers."""

    name: str
    about: str
    """What the numbers mean, in a few words."""
    make: MakeReward
    """From a section. Raises RequestError."""
    reads: tuple[str, ...] = ()
    """Fields of `RewardSource` that it reads beside `name` and `weight`."""
    needs: tuple[str, ...] = ()
    """Those that must be set."""
    example: str = ""
    """What to write where one of these is missing."""
    reference: bool = False
    """Whether it compares with a right answer: the row's checkable one, or the column that `column` names."""
    fits: Callable[[RewardSource], Callable[[Judged], str | None]] | None = None
    """What is wrong with a prompt for it, told before any answer is drawn: asked with an empty answer; None: nothing.
    No weights are read for it."""
    check: Callable[[RewardSource, str], Iterator[Fault]] | None = None
    """What is wrong with the values of its options; loads nothing."""


def simple(name: str, about: str, function: Callable[[Judged], float]) -> Kind:
    """A kind without options that looks at one answer at a time."""
    return Kind(name=name, about=about, make=lambda *_: EachReward(name, function))
