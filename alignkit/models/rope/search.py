"""LongRoPE: a search for one factor a pair of dimensions, judged by perplexity on long texts. No torch.

Ding et al. 2024, "LongRoPE: Extending LLM Context Window Beyond 2 Million Tokens", section 3.2 and algorithm 1: the
search starts from position interpolation, NTK and YaRN, mutates and crosses the best of a round, and keeps factors
from rising to falling (lambda_i <= lambda_(i+1)), within 1 and 1.25 s, in steps of 0.01.
Left out is the paper's second quantity, a number of first tokens whose positions are not stretched: no reader of
config.json has a place for it, so a model could not be saved with it.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignkit.config.rope import LongRopeSearch
from alignkit.models.rope import rules
from alignkit.models.rope.reading import LayerRope, RopeState

STEP = 0.01
"""Grid of the factors."""
ROOM = 1.25
"""Largest factor over the stretch."""
TRIES = 50
"""Draws for one new candidate, each thrown away where it was judged before."""

Factors = tuple[float, ...]


@dataclass(frozen=True)
class Searched:
    """What a search has found."""

    factors: Factors
    """(n,) one a pair, from the fastest to the slowest; frequencies of the plain embedding are divided by them."""
    perplexity: float
    start: dict[str, float]
    """Perplexity of the candidates that the search started from, by method."""
    rounds: tuple[float, ...]
    """Best perplexity after each round, the start's first."""
    judged: int
    """Candidates whose perplexity was computed."""


def start_candidates(state: RopeState, target: int) -> dict[str, Factors]:
    """Position interpolation, NTK and YaRN to `target` tokens on top of what the model has, as factors."""
    layer = state.layer
    known = state.frequencies(layer, state.present if layer.kind == "longrope" else None).inverse
    factor = target / state.trained
    ratio = rules.ntk_theta(1.0, layer.dim, factor)
    candidates = {
        "linear": rules.interpolated(known, factor),
        "ntk": rules.rebased(known, ratio, layer.dim),
        "yarn": rules.yarn(known, layer.dim, factor, state.trained),
    }
    return {name: _of(layer, inverse) for name, inverse in candidates.items()}


def largest_factor(state: RopeState, target: int) -> float:
    """1.25 times the stretch over the plain embedding."""
    return ROOM * state.stretched * target / state.trained


def search_factors(
    perplexity: Callable[[Factors], float],
    start: dict[str, Factors],
    largest: float,
    options: LongRopeSearch,
    *,
    seed: int,
    tell: Callable[[str], None] = lambda line: None,
) -> Searched:
    """The factors with the lowest `perplexity` found, the same for the same seed and the same perplexities.

    start: candidates by name, whose lengths agree; largest: bound of a factor. A candidate whose perplexity is not a
    number is never kept. Raises ValueError for candidates of different lengths, or where none of the start has a
    perplexity.
    """
    if len({len(one) for one in start.values()}) != 1:
        raise ValueError("the candidates that a search starts from have different lengths")
    rng = random.Random(seed)
    judged: dict[Factors, float] = {}

    def judge(factors: Factors) -> float:
        if factors not in judged:
            found = perplexity(factors)
            judged[factors] = found if math.isfinite(found) else math.inf
        return judged[factors]

    named = {name: judge(factors) for name, factors in start.items()}
    if not any(math.isfinite(value) for value in named.values()):
        raise ValueError("none of the candidates that a search starts from has a finite perplexity")
    population = list(dict.fromkeys(start.values()))
    if options.generations:
        population += _mutants(population, options.population - len(population), judged, largest, options, rng)
    rounds = [min(named.values())]
    for number in range(options.generations):
        best = sorted(population, key=judge)[: options.parents]
        rounds.append(judge(best[0]))
        tell(f"LongRoPE search, round {number + 1} of {options.generations}: perplexity {rounds[-1]:.3f}")
        population = best + _mutants(best, options.mutations, judged, largest, options, rng)
        population += _crossed(best, options.crossovers, {*judged, *population}, rng)
    winner = min(population, key=judge)
    if options.generations:
        rounds.append(judge(winner))
    return Searched(winner, judge(winner), named, tuple(rounds), len(judged))


def _mutants(
    parents: Sequence[Factors],
    wanted: int,
    judged: dict[Factors, float],
    largest: float,
    options: LongRopeSearch,
    rng: random.Random,
) -> list[Factors]:
    """New candidates, each a parent some of whose factors were drawn again between their neighbours."""
    found: list[Factors] = []
    for _ in range(max(wanted, 0) * TRIES):
        if len(found) == wanted:
            break
        parent = list(rng.choice(parents))
        for i in range(len(parent)):
            if rng.random() < options.mutation_rate:
                lower = parent[i - 1] if i else 1.0
                upper = min(parent[i + 1], largest) if i + 1 < len(parent) else largest
                parent[i] = _on_grid(rng.uniform(min(lower, upper), upper), lower, upper)
        child = tuple(parent)
        if child not in judged and child not in found:
            found.append(child)
    return found


def _crossed(parents: Sequence[Factors], wanted: int, known: set[Factors], rng: random.Random) -> list[Factors]:
    """New candidates that take each factor from one of two parents, where they do not fall then."""
    found: list[Factors] = []
    for _ in range(wanted * TRIES):
        if len(found) == wanted or len(parents) < 2:
            break
        one, other = rng.sample(list(parents), 2)
        child = tuple(rng.choice(pair) for pair in zip(one, other, strict=True))
        rising = all(a <= b for a, b in itertools.pairwise(child))
        if rising and child not in known and child not in found:
            found.append(child)
    return found


def _on_grid(value: float, lower: float, upper: float) -> float:
    return min(max(round(value / STEP) * STEP, lower), upper)


def _of(layer: LayerRope, inverse: Sequence[float]) -> Factors:
    plain = rules.plain(layer.theta, layer.dim)
    factors = [one / value for one, value in zip(plain, inverse, strict=True)]
    rising: list[float] = []
    for factor in factors:  # rounding alone could make the first ones fall
        rising.append(max(factor, rising[-1] if rising else 1.0))
    return tuple(rising)
