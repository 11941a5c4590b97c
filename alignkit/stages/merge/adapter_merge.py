"""LoRA adapters merged among themselves, from the recipe to the directory; the maths is in adapter_merging.py."""

from __future__ import annotations

from typing import Any

from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.models.locating import Source, locate
from alignkit.runs.digests import file_digest
from alignkit.runs.directory import RunDirectory
from alignkit.stages.merge import parameters
from alignkit.stages.merge.adapter_merging import merge_adapters
from alignkit.stages.merge.adapter_methods import ADAPTER_METHODS, check, common_base, refusal
from alignkit.stages.merge.adapter_reading import Adapter
from alignkit.stages.merge.adapter_writing import write_adapter
from alignkit.stages.merge.architecture import find_layers
from alignkit.stages.merge.methods import METHODS
from alignkit.stages.merge.recipe import MergeOptions, Recipe

DECOMPOSED = ("svd", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods whose result has a rank that can be chosen."""


def faults(recipe: Recipe, found: dict[str, Source]) -> list[Fault]:
    """Everything that keeps the adapters from being merged; `found`: `merge.models[0]` … to where each lies."""
    options = recipe.merge
    listed = list(_option_faults(options))
    method = ADAPTER_METHODS.get(options.method)
    if method is not None:
        every = {name for known in (*METHODS.values(), *ADAPTER_METHODS.values()) for name in known.parameters}
        places = {"merge": options} | {f"merge.models[{at}]": model for at, model in enumerate(options.models)}
        listed += parameters.faults(places, method, sorted(every))
    adapters, more = _opened(_models(found))
    listed += more
    if not more:
        if common_base(list(_models(found).values())) is None:
            listed.append(
                Fault(
                    where="merge.models",
                    what="the models are not all adapters on one base",
                    instead="Write merge.into=model: each adapter is then put on its own base.",
                )
            )
        else:
            listed += check(adapters, options.method)
    return list(dict.fromkeys(listed))


def merge(recipe: Recipe, run: RunDirectory, found: dict[str, Source]) -> dict[str, Any]:
    """Write the adapter to run.model_path, whole by rename.

    Returns what the run remembers: `digests` ({"model/FILE": SHA-256}), `figures` (method, tensors, bytes, nonfinite,
    and of the update: rank, modules, missed) and `resolved` ({"rank": …}). The card is written by run.py.
    """
    import numpy as np

    options = recipe.merge
    adapters, bad = _opened(_models(found))
    if bad:
        raise RequestError(bad)
    method = ADAPTER_METHODS[options.method]
    modules = [f"{module}.weight" for adapter in adapters for module in (*adapter.low_rank, *adapter.rows)]
    layers = find_layers(modules, {})

    def values(name: str) -> dict[str, float | list[float]]:
        return parameters.resolve(method, name, layers.depth(name), [options], [[model] for model in options.models])

    log.say(f"merging {len(adapters)} adapters by {method.name}: {method.about}")
    merged = merge_adapters(adapters, method.name, values, rank=options.rank, seed=recipe.seed)
    figures = merged.metrics
    if figures["missed"] > 0.01:
        hint = " (merge.method=cat misses nothing)" if method.name in ("linear", "svd") else " (see merge.rank)"
        log.say(f"the result misses {figures['missed']:.1%} of the merged update's energy{hint}")
    target = write_adapter(
        merged.written, run.model_path, _base(recipe, found), beside=[adapter.path for adapter in adapters]
    )
    digests = {
        f"{target.name}/{file.name}": file_digest(file) for file in sorted(target.iterdir()) if file.suffix != ".md"
    }
    tensors = merged.written.tensors
    numbers = {key: data for key, (_, _, data) in tensors.items() if not isinstance(data, bytes)}
    return {
        "digests": digests,
        "figures": {
            "method": method.name,
            "tensors": len(tensors),
            "bytes": (target / "adapter_model.safetensors").stat().st_size,
            "nonfinite": sorted(key for key, data in numbers.items() if not np.isfinite(data).all()),
            **figures,
        },
        "resolved": {"rank": figures["rank"]},
    }


def _models(found: dict[str, Source]) -> dict[str, Source]:
    """The models in their order, without the base."""
    return {where: source for where, source in found.items() if where.startswith("merge.models[")}


def _opened(found: dict[str, Source]) -> tuple[list[Adapter], list[Fault]]:
    adapters, bad = [], []
    for where, source in found.items():
        if not source.adapter:
            what = f"{source.place} is a whole model, and adapters are merged among themselves"
            bad.append(Fault(where=f"{where}.name", what=what, instead="Write merge.into=model."))
            continue
        try:
            adapters.append(Adapter.open(source, where=f"{where}.name"))
        except RequestError as error:
            bad += error.faults
    return adapters, bad


def _base(recipe: Recipe, found: dict[str, Source]) -> Source:
    """The base as the adapter names it: not the copy to which a GGUF file or a hub model was converted or fetched."""
    named = locate(recipe.merge.models[0])
    base = named.parent if named.adapter else _models(found)["merge.models[0]"].parent
    assert base is not None
    return base


def _option_faults(options: MergeOptions) -> list[Fault]:
    """Options of whole models, which say nothing of an adapter."""
    found = [fault] if (fault := refusal(options.method)) is not None else []
    whole = {
        "slices": bool(options.slices),
        "tokenizer": options.tokenizer is not None,
        "pad_to_multiple": options.pad_to_multiple is not None,
        "dtype": options.dtype != "auto",
    }
    for key, given in whole.items():
        if given:
            what = "belongs to whole models, and the result is an adapter"
            found.append(Fault(where=f"merge.{key}", what=what, instead="Leave it out, or write merge.into=model."))
    if options.rank is not None and options.method in ADAPTER_METHODS and options.method not in DECOMPOSED:
        what = f"{options.method} gives the rank itself"
        found.append(Fault(where="merge.rank", what=what, instead="Leave it out, or write merge.method=svd."))
    return found
