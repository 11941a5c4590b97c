"""Options of the teacher-cache stage: what is kept of a teacher's probabilities, and in how many bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from alignkit.config.recipe import Kind, StageRecipe
from alignkit.config.sections import Data, Model, Quantization
from alignkit.errors import Fault
from alignkit.teachers.recipe import Server, WeightedTeacher, server_faults


@dataclass(kw_only=True)
class CacheOptions:
    """What is peculiar to keeping a teacher's probabilities."""

    kind: Literal["top-k", "sampled"] = "top-k"
    """top-k: the likeliest tokens and the mass of the rest; sampled: tokens drawn at random, which is unbiased for the
    forward KL (Anshumann et al. 2025, "Sparse Logit Sampling")."""
    entries: Annotated[int, Ge(1), Le(65535)] | Literal["all"] = 50
    """k of top-k, or how many tokens are drawn at a position; all: the whole vocabulary (top-k)."""
    bits: Literal[8, 16, 32] = 16
    """Of a log-probability. 16: off by at most 0.0005 nats; 8: by 1/254 of the range of its position; 32: exact."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Of the teacher's softmax. Who learns from the cache uses the same (distill.temperature)."""
    max_bytes: Annotated[int, Ge(1)] | None = 300
    """Bytes that a token with loss may take; what would take more is refused. null: no limit."""
    weight: Annotated[float, Gt(0)] = 1.0
    """Share of `teacher` in the mean, where `cache.teachers` names others beside it."""
    teachers: list[WeightedTeacher] = field(default_factory=list)
    """Further teachers of the same vocabulary, as names or mappings {name: …, weight: …}: the weighted mean of all
    teachers' probabilities is kept."""
    server: Server = field(default_factory=Server)
    """A server that runs the teacher: `teacher` then names its tokenizer only."""


@dataclass(kw_only=True)
class Recipe(StageRecipe):
    """What a teacher says of a data set, on disk: its cost is paid once, however many students learn from it."""

    semantics: ClassVar[int] = 1
    wants: ClassVar[Kind] = "demonstration"

    teacher: Model
    data: Data
    quantization: Quantization = field(default_factory=Quantization)
    """Of the teachers."""
    cache: CacheOptions = field(default_factory=CacheOptions)

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        cache, served = self.cache, self.cache.server.url is not None
        yield from server_faults(cache.server, "cache.server")
        if cache.kind == "sampled" and cache.entries == "all":
            yield Fault(
                where="cache.entries",
                what="all is no number of draws",
                instead="Write one (50 is usual), or cache.kind=top-k.",
            )
        if not cache.teachers and cache.weight != 1.0:
            yield Fault(where="cache.weight", what="is set, and there is one teacher", instead="Leave it out.")
        if not served:
            return
        for name, set_to in (
            ("cache.teachers", bool(cache.teachers)),
            ("quantization.kind", self.quantization.kind != "none"),
        ):
            if set_to:
                what = "is set, and the teacher runs on a server"
                yield Fault(where=name, what=what, instead="Leave it out, or take out cache.server.url.")
        if cache.kind == "sampled":
            what = "a server lists the likeliest tokens, so none can be drawn from all"
            yield Fault(where="cache.kind", what=what, instead="Write cache.kind=top-k.")
        elif cache.temperature != 1.0:
            what = f"a server lists log-probabilities at temperature 1, not {cache.temperature:g}"
            yield Fault(where="cache.temperature", what=what, instead="Write cache.temperature=1.")
        if cache.entries == "all" or cache.entries > cache.server.top_logprobs:
            yield Fault(
                where="cache.entries",
                what=f"{cache.entries} is more than the {cache.server.top_logprobs} that the server is asked for",
                instead=f"Write cache.entries={cache.server.top_logprobs}, or a larger cache.server.top_logprobs.",
            )
