"""Which methods merge LoRA adapters among themselves, and what keeps adapters from being merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from alignkit.errors import Fault
from alignkit.models.locating import Source
from alignkit.stages.merge.adapter_reading import Adapter, LowRank
from alignkit.stages.merge.methods import METHODS, Method
from alignkit.stages.merge.methods.method import Merging, Parameter, Values


def _prune(shape: tuple[int, ...], values: Values, key: bytes) -> Merging:
    """The largest elements of each, summed: breadcrumbs without a cut at the top."""
    none = [0.0] * len(list(values["density"]))  # type: ignore[arg-type]
    return METHODS["breadcrumbs"].start(shape, {**values, "gamma": none}, key)


def _sum(name: str, about: str) -> Method:
    return replace(METHODS["task_arithmetic"], name=name, about=about, base="unused")


ADAPTER_METHODS: dict[str, Method] = {
    "linear": _sum("linear", "weighted sums of the factors"),
    "cat": _sum("cat", "the weighted sum of the updates, exactly, at the sum of the ranks"),
    "svd": _sum("svd", "the weighted sum of the updates, at a given rank"),
    **{name: replace(METHODS[name], base="unused") for name in ("ties", "dare_linear", "dare_ties")},
    "magnitude_prune": replace(
        METHODS["breadcrumbs"],
        name="magnitude_prune",
        about="the largest elements of each update, summed",
        paper="as the trim of Yadav et al. 2023, arXiv 2306.01708, section 3",
        base="unused",
        start=_prune,
        parameters={
            **{name: one for name, one in METHODS["breadcrumbs"].parameters.items() if name != "gamma"},
            "density": Parameter(default=0.5, low=0.0, high=1.0, per_model=True, about="share of the elements left"),
        },
    ),
}
"""What can be done with adapters, with the parameters that each reads: for stages.merge.parameters.resolve."""

_SPHERICAL = ("slerp", "nuslerp", "multislerp", "karcher")


def refusal(method: str, where: str = "merge.method") -> Fault | None:
    """Why adapters cannot be merged among themselves by a method; None for those of ADAPTER_METHODS."""
    if method in ADAPTER_METHODS:
        return None
    if method in _SPHERICAL:
        what = (
            f"{method} goes by angles, and those between the factors A and B of adapters mean nothing: (M·A, B·M⁻¹) is "
            "the same update for every M"
        )
    else:
        what = f"{method} combines whole models, and an adapter is asked for"
    instead = "Write merge.into=model: each adapter is then put on its base first. Or: merge.method=cat, svd or ties."
    return Fault(where=where, what=what, instead=instead)


def common_base(sources: Sequence[Source]) -> Source | None:
    """The base that all sources are adapters on, an adapter itself where they lie on one; None where there is none."""
    parents = [source.parent for source in sources if source.adapter]
    if len(parents) != len(sources) or not parents or parents[0] is None:
        return None
    first = _place(parents[0])
    return parents[0] if all(parent is not None and _place(parent) == first for parent in parents) else None


def _place(source: Source) -> tuple[str, str | None]:
    return (str(source.path.resolve()) if source.path is not None else source.place), source.revision


def check(adapters: Sequence[Adapter], method: str, where: str = "merge.models") -> list[Fault]:
    """What keeps these adapters from being merged: every fault."""
    faults = [fault] if (fault := refusal(method)) is not None else []
    instead = "Write merge.into=model: each adapter is then put on its base first."
    for at, adapter in enumerate(adapters):
        place = f"{where}[{at}].name"
        if adapter.is_dora:
            what = f"{adapter.path} is a DoRA, whose update depends on the weights of its base and not on A and B alone"
            faults.append(Fault(where=place, what=what, instead=instead))
        if any(part.bias for part in adapter.low_rank.values()):
            what = f"{adapter.path} trained biases inside its factors (lora_bias)"
            faults.append(Fault(where=place, what=what, instead=instead))
    seen: dict[str, Adapter] = {}
    for at, adapter in enumerate(adapters):
        for name, key in adapter.whole.items():
            other = seen.setdefault(name, adapter)
            if other is not adapter and raw_of(other, other.whole[name]) != raw_of(adapter, key):
                what = (
                    f"{other.path} and {adapter.path} both hold {name} whole, and what the base has there is not known"
                )
                faults.append(Fault(where=f"{where}[{at}].name", what=what, instead=instead))
    if len({adapter.vocabulary for adapter in adapters if adapter.rows}) > 1:
        what = "the adapters were trained with vocabularies of different sizes"
        faults.append(Fault(where=where, what=what, instead=instead))
    if any(adapter.rope != adapters[0].rope for adapter in adapters):
        what = "the adapters were trained with rotary positions that are stretched differently"
        faults.append(Fault(where=where, what=what, instead=instead))
    shapes: dict[str, tuple[int, int]] = {}
    for at, adapter in enumerate(adapters):
        for module, part in adapter.low_rank.items():
            if shapes.setdefault(module, shape_of(adapter, part)) != shape_of(adapter, part):
                what = f"{module} is {shapes[module]} in one adapter and {shape_of(adapter, part)} in {adapter.path}"
                faults.append(Fault(where=f"{where}[{at}].name", what=what, instead="Give adapters on one base."))
        if method == "linear":
            for module, part in adapter.low_rank.items():
                ranks = {other.low_rank[module].rank for other in adapters if module in other.low_rank}
                if len(ranks) > 1 and part.rank != min(ranks):
                    what = f"linear needs equal ranks, and {module} has {sorted(ranks)}"
                    faults.append(Fault(where="merge.method", what=what, instead="Write merge.method=cat or svd."))
                    break
    return faults


def shape_of(adapter: Adapter, part: LowRank) -> tuple[int, int]:
    """(out, in) of the update."""
    return adapter.file.shape(part.b)[0], adapter.file.shape(part.a)[1]


def raw_of(adapter: Adapter, key: str) -> bytes:
    """The stored bytes of one tensor."""
    return adapter.file.raw(key, 0, adapter.file.tensors[key].count)
