"""Which layers of which models the result's layers are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from alignkit.errors import Fault
from alignkit.stages.merge.architecture import BUFFERS, LAYER_COUNTS, layer_count
from alignkit.stages.merge.parents import Parent, Parents
from alignkit.stages.merge.recipe import MergeOptions, Slice


@dataclass(frozen=True)
class Stretch:
    """A layer of the result."""

    layers: dict[int, int]
    """Model (place in merge.models) to its layer."""
    slice: int | None
    """Place in merge.slices; None where nothing is sliced."""
    depth: float
    """Between the first layer (0) and the last (1), of the slice where there is one."""

    @property
    def models(self) -> list[int]:
        return list(self.layers)


def stack(options: MergeOptions, parents: Parents) -> list[Stretch]:
    """The result's layers from below to above."""
    if not options.slices:
        count = parents.leading.layers.count
        every = range(len(parents.models))
        return [Stretch(dict.fromkeys(every, layer), None, _depth(layer, count)) for layer in range(count)]
    found = []
    for place, one in enumerate(options.slices):
        first, end = one.sources[0].layers
        for step in range(end - first):
            layers = {source.model: source.layers[0] + step for source in one.sources}
            found.append(Stretch(layers, place, _depth(step, end - first)))
    return found


def _depth(layer: int, count: int) -> float:
    return layer / (count - 1) if count > 1 else 1.0


def names_of(parent: Parent, layer: int) -> list[str]:
    """Common names of the tensors of one layer, constants that need not be there aside."""
    layers = parent.layers
    return [name for name in parent.names if layers.of(name) == layer and not BUFFERS.search(name)]


def faults(options: MergeOptions, parents: Parents, *, based: bool) -> Iterator[Fault]:
    """Slices that reach beyond the layers of their models, or bring layers together that have not the same tensors.

    `based`: the method looks at the base too, whose layers are those of a slice's first source.
    """
    for place, one in enumerate(options.slices):
        found = list(_reach_faults(f"merge.slices[{place}].sources", one, parents, based))
        yield from found or _tensor_faults(f"merge.slices[{place}].sources", one, parents, based)


def _reach_faults(where: str, one: Slice, parents: Parents, based: bool) -> Iterator[Fault]:
    for at, source in enumerate(one.sources):
        model = parents.models[source.model]
        if not model.layers.count:
            yield Fault(where=f"{where}[{at}]", what=f"the names of {model.name}'s tensors show no layers")
        elif source.layers[1] > model.layers.count:
            yield Fault(
                where=f"{where}[{at}].layers",
                what=f"{source.layers} reaches beyond the {model.layers.count} layers of {model.name}",
                instead=f"The layers are 0 to {model.layers.count - 1}, and the end is not included.",
            )
    if len({source.model for source in one.sources}) < len(one.sources):
        yield Fault(
            where=where,
            what="names a model twice",
            instead="List the model twice in merge.models to merge two of its layers.",
        )
    if based and parents.base is not None and one.sources[0].layers[1] > parents.base.layers.count:
        yield Fault(
            where=where,
            what=f"takes layers {one.sources[0].layers}, and the base has {parents.base.layers.count}",
            instead="Task vectors need the same layers of the base.",
        )


def _tensor_faults(where: str, one: Slice, parents: Parents, based: bool) -> Iterator[Fault]:
    first, *others = one.sources
    leading = parents.models[first.model]
    layers = leading.layers
    pairs = [(parents.models[source.model], source.layers[0]) for source in others]
    if based and parents.base is not None:
        pairs.append((parents.base, first.layers[0]))
    for step in range(first.layers[1] - first.layers[0]):
        layer = first.layers[0] + step
        for parent, start in pairs:
            wanted = {layers.renamed(name, start + step) for name in names_of(leading, layer)}
            if wanted != set(names_of(parent, start + step)):
                yield Fault(
                    where=where,
                    what=f"layer {layer} of {leading.name} and layer {start + step} of {parent.name} have not the "
                    "same tensors",
                    instead="Take layers of one make.",
                )
                return


def restacked(config: dict[str, Any], options: MergeOptions, parents: Parents) -> dict[str, Any]:
    """config.json of the result: the number of layers, and lists with an entry for each layer, follow the slices."""
    if not options.slices:
        return config
    layers = stack(options, parents)
    old = layer_count(config)
    result = dict(config)
    inner = result.get("text_config")
    holder = result
    if isinstance(inner, dict) and layer_count({"text_config": inner}) is not None:
        holder = result["text_config"] = dict(inner)
    for key, value in list(holder.items()):
        if key in LAYER_COUNTS and value == old:
            holder[key] = len(layers)
        elif isinstance(value, list) and len(value) == old and "layer" in key:
            holder[key] = [_entry(key, one, parents, value) for one in layers]
    return result


def _entry(key: str, one: Stretch, parents: Parents, leading: list[Any]) -> Any:
    """The entry of a list in config.json for a layer: from the first model that the layer is made of."""
    model, layer = next(iter(one.layers.items()))
    config = parents.models[model].config
    text = config.get("text_config")
    own = text.get(key) if isinstance(text, dict) and key in text else config.get(key)
    if isinstance(own, list) and layer < len(own):
        return own[layer]
    return leading[min(layer, len(leading) - 1)]
