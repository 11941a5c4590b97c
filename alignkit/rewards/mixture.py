"""From what a recipe names to rewards that judge, alone or mixed with weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from alignkit.errors import Fault, NumericsError, RequestError
from alignkit.rewards.judged import Judged, Reward
from alignkit.rewards.kinds import KINDS, Kind
from alignkit.rewards.kinds.kind import Making
from alignkit.rewards.recipe import RewardSource, code_fault

if TYPE_CHECKING:
    from alignkit.models.loading import Loaded

OPTIONS = ("model", "pattern", "schema", "target", "unit", "ngram", "template", "column")
"""Fields of RewardSource that belong to some rewards and not to others."""


def reward(
    spec: str | RewardSource,
    *,
    allow_code: bool = False,
    batch: int = 16,
    where: str = "reward",
    beside: Loaded | None = None,
) -> Reward:
    """The reward that a name, a path of a reward model, or a section of a recipe means; its model is loaded here.

    Args:
        allow_code: whether a MODULE:FUNCTION may be imported and run.
        batch: answers that a model judges at once.
        where: the key that errors name.
        beside: a policy whose base stays frozen (it is trained as an adapter, attached by now or later): a reward
            model that is an adapter on the same base takes no memory for a second one, and scores as it does alone.

    Raises:
        RequestError: there is no such reward, its options do not fit, its model cannot be read.
    """
    source = RewardSource(name=spec) if isinstance(spec, str) else spec
    faults = list(source_faults(source, where))
    if source.function is not None and not allow_code:
        faults.append(code_fault(source, where))
    if faults:
        raise RequestError(faults)
    return kind_of(source).make(source, Making(batch=batch, where=where, beside=beside))


@dataclass(frozen=True)
class Scored:
    """The sum for each answer (NaN where a reward gave none, and that is allowed), and what it is the sum of."""

    total: list[float]
    parts: dict[str, list[float]]
    problems: list[str | None]
    """For each answer what was wrong, or None."""


class Rewards:
    """Several rewards, added up with their weights."""

    def __init__(self, parts: Sequence[tuple[Reward, float]], *, skip: bool = False) -> None:
        """``skip``: an answer that a reward fails on gets NaN; otherwise the failure is raised."""
        names: list[str] = []
        for part, _ in parts:
            number = sum(name.split("#")[0] == part.name for name in names)
            names.append(f"{part.name}#{number + 1}" if number else part.name)
        self.parts = {name: (part, weight) for name, (part, weight) in zip(names, parts, strict=True)}
        self.skip = skip

    @classmethod
    def of(
        cls,
        sources: Sequence[RewardSource],
        *,
        allow_code: bool = False,
        batch: int = 16,
        skip: bool = False,
        where: str = "reward",
        beside: Loaded | None = None,
    ) -> Rewards:
        """As `reward`, for a recipe's list of them."""
        made = [
            (
                reward(source, allow_code=allow_code, batch=batch, where=f"{where}[{at}]", beside=beside),
                source.weight,
            )
            for at, source in enumerate(sources)
        ]
        return cls(made, skip=skip)

    def __call__(self, rows: Sequence[Judged]) -> Scored:
        """Judge answers. Raises NumericsError for what is no finite number, unless that is skipped."""
        total = [0.0] * len(rows)
        parts: dict[str, list[float]] = {}
        problems: list[str | None] = [None] * len(rows)
        for name, (part, weight) in self.parts.items():
            if self.skip:
                parts[name], said = part.judge(rows)
                problems = [
                    before or (None if now is None else f"{name} {now}")
                    for before, now in zip(problems, said, strict=True)
                ]
            else:
                parts[name] = part(rows)
            total = [so_far + weight * score for so_far, score in zip(total, parts[name], strict=True)]
        if any(math.isinf(score) for score in total):
            raise NumericsError("The sum of the rewards is infinite: their weights or their scores are too large.")
        return Scored(total, parts, problems)


# --- checking -------------------------------------------------------------------------------------------------------


def kind_of(source: RewardSource) -> Kind:
    """What a section names. Raises RequestError where that is nothing."""
    found = KINDS.get("function" if source.function is not None else source.name)
    if found is None or (found.name == "function" and source.function is None):
        raise RequestError(_unknown(source.name, "reward"))
    return found


def faults_of(sources: Sequence[RewardSource], where: str) -> Iterator[Fault]:
    """Every fault of a recipe's rewards that can be known without loading a model."""
    for at, source in enumerate(sources):
        yield from source_faults(source, f"{where}[{at}]")


def source_faults(source: RewardSource, where: str) -> Iterator[Fault]:
    """Unknown names, options that are missing, and options that this reward does not read."""
    try:
        kind = kind_of(source)
    except RequestError:
        yield _unknown(source.name, where)
        return
    for option in OPTIONS:
        given = getattr(source, option) is not None
        if given and option not in kind.reads:
            readers = ", ".join(name for name, one in KINDS.items() if option in one.reads)
            yield Fault(
                where=f"{where}.{option}",
                what=f"{source.name} does not read it (it is read by: {readers})",
                instead="Leave it out.",
            )
        elif option in kind.needs and not given:
            yield Fault(
                where=f"{where}.{option}", what=f"{source.name} needs it, and nothing sets it", instead=kind.example
            )
    if kind.check is not None and not any(getattr(source, option) is None for option in kind.needs):
        yield from kind.check(source, where)


def _unknown(name: str, where: str) -> Fault:
    known = [one for one in KINDS if one != "function"]
    near = get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    if name.startswith("["):  # where a list is read as one, no name begins so
        hint = "Write one: a list stands where several rewards are added up (rank.reward, rlhf.rewards). "
    return Fault(
        where=f"{where}.name",
        what=f"there is no reward {name!r}",
        instead=f"{hint}There are: {', '.join(known)}; ./DIR or hub:NAME of a reward model; and MODULE:FUNCTION.",
    )
