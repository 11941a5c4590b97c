"""What a model costs: its size, and how fast it reads and writes here. Shown beside scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from alignkit.evaluation.scores import Figure

if TYPE_CHECKING:
    import torch

READ = 256
"""Tokens of the text whose reading is timed."""
PROMPT, WRITTEN = 16, 24
"""Tokens of the prompt and of the answer whose writing is timed: one answer at a time, with its cache."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Size and speed of one model on one machine, in the number format and on the device that it was loaded with."""

    parameters: int
    """Tied ones once; of quantized weights as many as they stand for."""
    weight_bytes: int
    """Memory that the weights take."""
    read_per_second: float
    """Tokens of a prompt of 256."""
    written_per_second: float
    """Tokens of one answer, the likeliest at each step."""

    def figures(self) -> list[Figure]:
        """What is shown, in that order."""
        return [
            Figure(name="parameters", value=float(self.parameters), text=f"{self.parameters / 1e6:,.1f} M"),
            Figure(name="weights in memory", value=float(self.weight_bytes), text=f"{self.weight_bytes / 1e6:,.0f} MB"),
            Figure(
                name="tokens read/s", value=self.read_per_second, text=f"{self.read_per_second:,.0f}", better="higher"
            ),
            Figure(
                name="tokens written/s",
                value=self.written_per_second,
                text=f"{self.written_per_second:,.1f}",
                better="higher",
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Valid JSON."""
        return asdict(self) | {
            "read_per_second": round(self.read_per_second, 2),
            "written_per_second": round(self.written_per_second, 3),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Cost:
        """The inverse of `as_dict`."""
        return cls(**plain)


def cost_of(model: Any, *, dtype: torch.dtype | None = None, repeats: int = 3) -> Cost:
    """Measure ``model`` as it stands (an adapter beside its base is part of it), and leave it as it was.

    ``dtype``: number format to measure whole weights in, that in which they will be loaded to be used; those that are
    being trained often lie in a wider one. None: as they are. For the time of measuring both are in memory.

    The tokens are random and the same for all models of one vocabulary; of ``repeats`` timings after a first one that
    does not count, the fastest is taken, since whatever else runs can only slow it down. A model that reads fewer than
    256 tokens gets as many as it reads.
    """
    import torch

    from alignkit.evaluation.decoding import write
    from alignkit.evaluation.inference import context_length, reading

    device = next(model.parameters()).device
    length = min(READ, context_length(model) or READ)
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    prompt = ids[0, :PROMPT].tolist()
    ids = ids.to(device)
    written = min(WRITTEN, length - len(prompt))

    def fastest(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - started)
        return min(times[1:])

    with reading(model), _in_format(model, dtype):
        parameters, size = size_of(model)
        read = fastest(lambda: model(input_ids=ids, use_cache=False))
        wrote = (
            fastest(lambda: write(model, [prompt], stop=(), max_new_tokens=written, pad_id=0)) if written > 0 else 0.0
        )
    return Cost(
        parameters=parameters,
        weight_bytes=size,
        read_per_second=length / read,
        written_per_second=written / wrote if wrote else 0.0,
    )


@contextmanager
def _in_format(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Weights in another number format for as long as the context lasts; then those that were there before, untouched.

    An adapter and its base, and quantized weights, are used in the formats that they were trained in.
    """
    whole = not hasattr(model, "peft_config") and not any(hasattr(one, "quant_state") for one in model.parameters())
    if dtype is None or not whole:
        yield
        return
    held = [(one, one.data) for one in model.parameters() if one.is_floating_point() and one.dtype != dtype]
    try:
        for one, data in held:
            one.data = data.to(dtype)
        yield
    finally:
        for one, data in held:
            one.data = data


def size_of(model: Any) -> tuple[int, int]:
    """(parameters, bytes that they take). Tied ones count once; 4-bit weights, which lie packed, by what they stand
    for, and the constants that they are read with as bytes."""
    count = size = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count += prod(state.shape) if state is not None else parameter.numel()
        size += parameter.numel() * parameter.element_size()
        if state is not None:
            size += sum(one.numel() * one.element_size() for one in _constants(state))
    return count, size


def _constants(state: Any) -> list[Any]:
    """The tensors of a bitsandbytes quantization state: scales, and where they are quantized too, their own."""
    nested = getattr(state, "state2", None)
    found = [state.absmax, state.code] + ([nested.absmax, nested.code] if nested is not None else [])
    return [one for one in found if one is not None]
