"""How a model's rotary position embedding is stretched: the values a person gives. The maths is in models/rope."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le

Method: TypeAlias = Literal["linear", "ntk", "abf", "dynamic", "yarn", "longrope", "llama3"]


@dataclass(kw_only=True)
class Yarn:
    """YaRN (Peng et al. 2023, sections 3.2 to 3.4): fast dimensions stay, slow ones are interpolated, with a ramp."""

    beta_fast: Annotated[float, Gt(0)] | None = None
    """Turns within the original window from which a dimension is left as it is (the paper's beta); null: 32, or what a
    model that YaRN has stretched before was trained with."""
    beta_slow: Annotated[float, Gt(0)] | None = None
    """Turns within the original window below which a dimension is interpolated in full (the paper's alpha); null: 1, or
    what the model has."""
    attention_factor: Annotated[float, Gt(0)] | None = None
    """Factor on query and key each; null: 0.1 ln(s) + 1 (section 3.4), which all readers of config.json take alike."""
    mscale: Annotated[float, Gt(0)] | None = None
    """DeepSeek's form of the factor, with mscale_all_dim: (0.1 mscale ln s + 1) / (0.1 mscale_all_dim ln s + 1)."""
    mscale_all_dim: Annotated[float, Gt(0)] | None = None
    """See mscale."""
    truncate: bool | None = None
    """Round the ends of the ramp to whole dimensions; null: yes, or what the model has."""


@dataclass(kw_only=True)
class Llama3:
    """Llama 3.1's rule: dimensions by wavelength, interpolated, left, or in between."""

    low_freq_factor: Annotated[float, Gt(0)] | None = None
    """Wavelengths above original/this are interpolated in full; null: 1, or what the model has."""
    high_freq_factor: Annotated[float, Gt(0)] | None = None
    """Wavelengths below original/this are left as they are; null: 4, or what the model has."""


@dataclass(kw_only=True)
class LongRopeSearch:
    """Evolutionary search of one factor a dimension (Ding et al. 2024, "LongRoPE", section 3.2 and algorithm 1)."""

    generations: Annotated[int, Ge(0)] = 8
    """Rounds of mutation and crossover; the paper has 40. 0: the best of the start (linear, NTK, YaRN) is taken."""
    population: Annotated[int, Ge(2)] = 16
    """Candidates of the first round; the paper has 64."""
    parents: Annotated[int, Ge(1)] = 8
    """Best candidates that the next round is made from; the paper has 32."""
    mutations: Annotated[int, Ge(0)] = 4
    """New candidates a round by mutation; the paper has 16."""
    crossovers: Annotated[int, Ge(0)] = 4
    """New candidates a round by crossover; the paper has 16."""
    mutation_rate: Annotated[float, Gt(0), Le(1)] = 0.3
    """Chance that a dimension's factor mutates (section 3.2)."""
    texts: Annotated[int, Ge(1)] = 2
    """Longest training documents that candidates are judged on, by perplexity; the paper has 5."""


@dataclass(kw_only=True)
class LongRope:
    """LongRoPE: one factor for each pair of dimensions, given, or searched on the user's text."""

    long_factor: list[float] = field(default_factory=list)
    """Given factors for inputs beyond the original window, one for each pair of rotated dimensions; empty: searched."""
    short_factor: list[float] = field(default_factory=list)
    """Given factors for inputs within the original window; empty: as the model
    is now."""
    attention_factor: Annotated[float, Gt(0)] | None = None
    """Factor on query and key each; null: sqrt(1 + ln s / ln original)."""
    search: LongRopeSearch = field(default_factory=LongRopeSearch)


@dataclass(kw_only=True)
class RopeOptions:
    """Which rule stretches the frequencies, and its parameters; those of other methods stay unset."""

    method: Method = "yarn"
    """linear: position interpolation (Chen et al. 2023); ntk: theta by formula (bloc97 2023); abf: theta given (Xiong
    et al. 2023); dynamic: NTK by the length at hand, untrained; yarn; longrope; llama3."""
    original: Annotated[int, Ge(1)] | None = None
    """Window that the model was trained at, in tokens; null: read from the model."""
    factor: Annotated[float, Gt(1)] | None = None
    """Stretch s over the original window; null: what the target length needs. A larger one leaves room, a smaller one
    is an error. A model that is stretched by s0 already is stretched by s / s0 more."""
    theta: Annotated[float, Gt(1)] | None = None
    """abf: the new base frequency; null: theta^(ln(target/2pi) / ln(window/2pi)), with which the pair that turns once
    in the window turns once in the target (the critical base of Liu et al. 2023, "Scaling Laws of RoPE-based
    Extrapolation"), and never below NTK's."""
    yarn: Yarn = field(default_factory=Yarn)
    llama3: Llama3 = field(default_factory=Llama3)
    longrope: LongRope = field(default_factory=LongRope)
