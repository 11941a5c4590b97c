"""What names and shapes of tensors say of a model, without a table of architectures.

A decoder is a stack of layers that are numbered in the names of their tensors: `model.layers.7.mlp.up_proj.weight`,
`transformer.h.7.attn.c_attn.weight`, `model.layers.7.experts.3.w1.weight`. The first number of a name that counts from
0 without a gap is the layer; what has no such number stands below the first layer (embeddings) or above the last.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_NUMBER = re.compile(r"(?:^|(?<=\.))(\d+)(?=\.)")
_EMBEDDING = re.compile(r"embed|wte|wpe|word_emb|position_emb|token_type", re.IGNORECASE)
_HEAD = re.compile(r"(?:^|\.)(lm_head|embed_out|output|output_layer|score|head)\.weight$")
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
"""Keys of config.json that give the number of layers."""
BUFFERS = re.compile(r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|\.attention\.(masked_)?bias$")
"""Constants that older checkpoints carry and no model needs: they may be missing from some of the models."""


@dataclass(frozen=True)
class Layers:
    """The stack of layers of a model."""

    prefix: str
    """What stands before the number in the tensors' names, with the dot: `model.layers.`; empty: no layers found."""
    count: int

    def of(self, name: str) -> int | None:
        """The layer that a tensor belongs to."""
        if not self.prefix or not name.startswith(self.prefix):
            return None
        number = name[len(self.prefix) :].partition(".")[0]
        return int(number) if number.isdigit() else None

    def renamed(self, name: str, layer: int) -> str:
        """The name of the same tensor in another layer."""
        rest = name[len(self.prefix) :].partition(".")[2]
        return f"{self.prefix}{layer}.{rest}"

    def depth(self, name: str) -> float:
        """Where a tensor stands between the first layer (0) and the last (1)."""
        layer = self.of(name)
        if layer is None:
            return 0.0 if _EMBEDDING.search(name) and not is_head(name) else 1.0
        return layer / (self.count - 1) if self.count > 1 else 1.0


def find_layers(names: Iterable[str], config: Mapping[str, Any]) -> Layers:
    """The stack of layers among the tensors' names: the one of the size that config.json gives, else the largest."""
    numbers: dict[str, set[int]] = defaultdict(set)
    tensors: dict[str, int] = defaultdict(int)
    for name in names:
        found = _NUMBER.search(name)
        if found:
            numbers[name[: found.start()]].add(int(found.group(1)))
            tensors[name[: found.start()]] += 1
    whole = {prefix: len(found) for prefix, found in numbers.items() if found == set(range(len(found)))}
    if not whole:
        return Layers("", 0)
    said = layer_count(config)
    best = max(whole, key=lambda prefix: (whole[prefix] == said, tensors[prefix], prefix))
    return Layers(best, whole[best])


def layer_count(config: Mapping[str, Any]) -> int | None:
    """How many layers config.json says the model has; of a model with several parts, its text model."""
    for holder in (config.get("text_config"), config):
        for key in LAYER_COUNTS:
            value = holder.get(key) if isinstance(holder, Mapping) else None
            if isinstance(value, int):
                return value
    return None


def is_head(name: str) -> bool:
    """Whether a tensor is the output layer by its name."""
    return _HEAD.search(name) is not None


def is_embedding(name: str) -> bool:
    """Whether a tensor is an embedding by its name."""
    return _EMBEDDING.search(name) is not None and not is_head(name)


def token_embedding(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> str | None:
    """The matrix with one row for each token; None where it cannot be told."""
    rows = config.get("vocab_size")
    text = config.get("text_config")
    if rows is None and isinstance(text, Mapping):
        rows = text.get("vocab_size")
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2 and is_embedding(name)}
    by_size = [name for name, shape in matrices.items() if shape[0] == rows]
    found = by_size or list(matrices)
    if len(found) > 1:  # positions and the like are smaller than a vocabulary
        found = sorted(found, key=lambda name: (-matrices[name][0], name))[:1]
    return found[0] if found else None


def output_head(shapes: Mapping[str, tuple[int, ...]], embedding: str | None) -> str | None:
    """The output layer: named as one, and of the shape of the embedding."""
    if embedding is None:
        return None
    rows = shapes[embedding]
    found = [name for name, shape in shapes.items() if is_head(name) and len(shape) == 2 and shape[1:] == rows[1:]]
    return found[0] if len(found) == 1 else None


def ties(config: Mapping[str, Any], head: str | None) -> bool:
    """Whether embedding and output layer are one matrix: the checkpoint has no head, or the config says so."""
    said = config.get("tie_word_embeddings")
    text = config.get("text_config")
    if said is None and isinstance(text, Mapping):
        said = text.get("tie_word_embeddings")
    return head is None or said is True


def common_names(models: Iterable[Collection[str]]) -> list[dict[str, str]]:
    """For each model its own name of every tensor, keyed by the first model's names.

    One checkpoint may hold the trunk alone (`h.0.ln_1.weight`) and another the whole model
    (`transformer.h.0.ln_1.weight`): a prefix that makes all the difference is passed over.
    """
    listed = [list(names) for names in models]
    first = set(listed[0])
    maps = []
    for names in listed:
        own = {name: name for name in names}
        if not first & own.keys():
            own = _prefixed(first, names) or own
        maps.append(own)
    return maps


def _prefixed(first: Collection[str], names: Collection[str]) -> dict[str, str] | None:
    """`names` keyed by what they would be called with another prefix; None where no prefix makes them `first`."""
    wanted = set(first)
    for prefix in sorted({name.partition(".")[0] + "." for name in wanted}):
        longer = {f"{prefix}{name}": name for name in names}
        if len(wanted & longer.keys()) > len(names) // 2:
            return {(full if full in wanted else name): name for full, name in longer.items()}
    for prefix in sorted({name.partition(".")[0] + "." for name in names}):
        shorter = {name.removeprefix(prefix): name for name in names}
        if len(wanted & shorter.keys()) > len(names) // 2:
            return shorter
    return None


def sorted_names(names: Iterable[str], layers: Layers) -> list[str]:
    """Names in the order of the model: embeddings, layers from below to above, norm and head."""

    def place(name: str) -> tuple[float, int, str]:
        layer = layers.of(name)
        if layer is None:
            return (0.0 if is_embedding(name) else 2.0, 0, name)
        return (1.0, layer, name)

    return sorted(names, key=place)
