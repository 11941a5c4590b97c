"""How much each layer, head, neuron and channel of a teacher does on some rows: activations, read in one pass.

Minitron (Muralidharan et al. 2024, section 2.2) takes for each row the mean over its tokens of an activation's size and
puts rows together by their L2 norm (the pair that its table of aggregations finds best). Each row is read alone, so
nothing is padded and a batch size decides nothing. Letters as in anatomy.py; T tokens of a row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignkit.models.students.anatomy import Anatomy
from alignkit.models.students.masking import skipped

IGNORED = -100


class CalibrationRow(Protocol):
    """A row as tokens; labels are -100 where a token carries no loss."""

    @property
    def input_ids(self) -> Sequence[int]: ...

    @property
    def labels(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class Importance:
    """Scores of one model, the larger the more it does. Comparable within a tensor's last axis only."""

    layers: Tensor | None = None  # (L,)
    heads: Tensor | None = None  # (L, H)
    neurons: Tensor | None = None  # (L, I)
    channels: Tensor | None = None  # (D,)


def block_influence(anatomy: Anatomy, rows: Sequence[CalibrationRow]) -> Tensor:
    """(L,) mean over all tokens of 1 - cos(what goes into a layer, what comes out) (Men et al. 2024, equation 1)."""
    total = torch.zeros(anatomy.depth, dtype=torch.float64)

    def watch(number: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output if isinstance(output, Tensor) else output[0]
            total[number] += float((1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).double().sum())

        return hook

    handles = [
        layer.register_forward_hook(watch(number), with_kwargs=True) for number, layer in enumerate(anatomy.layers)
    ]
    tokens = _read(anatomy, rows, handles)
    return total / tokens


def loss_rise(anatomy: Anatomy, rows: Sequence[CalibrationRow]) -> Tensor:
    """(L,) how much the mean loss in nats a labelled token rises when a layer is left out (Minitron, section 2.2)."""
    whole = mean_loss(anatomy.model, rows)
    risen = []
    for number in range(anatomy.depth):
        with skipped(anatomy, [number]):
            risen.append(mean_loss(anatomy.model, rows) - whole)
    return torch.tensor(risen, dtype=torch.float64)


def activations(anatomy: Anatomy, rows: Sequence[CalibrationRow], axes: Sequence[str]) -> Importance:
    """Scores of the ``axes`` (heads, mlp, hidden) that are wanted.

    Heads: the L2 norm of a head's output. Neurons: the size of what goes into the MLP's last product. Channels: the
    size of what the norms give, summed over all of them.
    """
    meters: dict[str, list[_Meter]] = {}
    handles = []
    if "heads" in axes:
        meters["heads"] = [_Meter(anatomy.heads) for _ in anatomy.layers]
        for meter, module in zip(meters["heads"], anatomy.mixers("attention_out"), strict=True):
            handles.append(module.register_forward_pre_hook(meter.of_input))
    if "mlp" in axes:
        meters["mlp"] = [_Meter(anatomy.neurons) for _ in anatomy.layers]
        for meter, module in zip(meters["mlp"], anatomy.mixers("mlp_out"), strict=True):
            handles.append(module.register_forward_pre_hook(meter.of_input))
    if "hidden" in axes:
        norms = anatomy.norms()
        meters["hidden"] = [_Meter(anatomy.channels) for _ in norms]
        for meter, module in zip(meters["hidden"], norms, strict=True):
            handles.append(module.register_forward_hook(meter.of_output))
    _read(anatomy, rows, handles)
    found = {axis: torch.stack([meter.score() for meter in own]) for axis, own in meters.items()}
    hidden = found.get("hidden")
    return Importance(
        heads=found.get("heads"), neurons=found.get("mlp"), channels=None if hidden is None else hidden.sum(0)
    )


@torch.no_grad()
def mean_loss(model: Any, rows: Sequence[CalibrationRow]) -> float:
    """Nats a labelled token. Raises ValueError where none is labelled."""
    device = next(model.parameters()).device
    selects = "logits_to_keep" in inspect.signature(model.forward).parameters
    total, count = 0.0, 0
    for row in rows:
        ids = torch.tensor([list(row.input_ids)], device=device)  # (1, T)
        labels = torch.tensor(list(row.labels), device=device)[1:]  # (T-1,)
        wanted = (labels != IGNORED).nonzero().squeeze(1)
        if not len(wanted):
            continue
        if selects:
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=wanted).logits[0]  # (n, V)
        else:
            logits = model(input_ids=ids, use_cache=False).logits[0, wanted]  # (n, V)
        total += float(F.cross_entropy(logits.float(), labels[wanted], reduction="sum"))
        count += len(wanted)
    if not count:
        raise ValueError("no labelled token in the rows that importance is measured on")
    return total / count


class _Meter:
    """Σ over rows of (mean over tokens of a unit's size)²; a unit is one value, or several that lie together."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.squares = torch.zeros(units, dtype=torch.float64)

    def of_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._add(args[0])

    def of_output(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self._add(output)

    def _add(self, values: Tensor) -> None:
        sizes = values.float().reshape(-1, self.units, values.shape[-1] // self.units).norm(dim=-1)  # (T, units)
        self.squares += sizes.mean(0).double().cpu().square()

    def score(self) -> Tensor:
        return self.squares.sqrt()


def _read(anatomy: Anatomy, rows: Sequence[CalibrationRow], handles: list[Any]) -> int:
    """Feed every row to the trunk; the number of tokens. Takes the hooks off, whatever happens."""
    model = anatomy.model
    device = next(model.parameters()).device
    tokens = 0
    try:
        with torch.no_grad(), resting(model):
            for row in rows:
                ids = torch.tensor([list(row.input_ids)], device=device)  # (1, T)
                model.base_model(input_ids=ids, use_cache=False)
                tokens += ids.shape[1]
    finally:
        for handle in handles:
            handle.remove()
    return tokens


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """Dropout off while the context lasts; afterwards each module trains or rests as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
