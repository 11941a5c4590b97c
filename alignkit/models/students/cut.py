"""A plan and a teacher become a student: new weights of its shape, filled with slices of the teacher's.

Fewer channels change what a norm does: RMS(x) over D' channels is larger by sqrt(D/D') than over D of which the others
are 0. The norms' weights are multiplied by that root (and epsilon by its square, shape.py), so the student computes
exactly what its teacher computes with those channels at 0. Minitron leaves the scale to be learned again.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import RunError
from alignkit.models.students.anatomy import Anatomy
from alignkit.models.students.masking import only
from alignkit.models.students.plan import Plan
from alignkit.models.students.shape import built, config_of

_CHECKED_TOKENS = 32
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_LOW_PRECISION = 0.2
"""Mean difference of the logits that counts as rounding, in standard deviations of the logits."""


def fresh(anatomy: Anatomy, plan: Plan, dtype: torch.dtype, seed: int) -> Any:
    """A student of the plan's shape with the new weights that its family starts training from."""
    model = anatomy.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = built(config_of(anatomy, plan.shape, plan.layers), model.config._attn_implementation, dtype)
    if model.generation_config is not None:
        student.generation_config = copy.deepcopy(model.generation_config)
    return student.to(next(model.parameters()).device).eval()


@torch.no_grad()
def fill(student: Any, anatomy: Anatomy, plan: Plan) -> None:
    """Copy the plan's slices of the teacher's weights, and its buffers, into the student.

    Raises RunError where the student has a tensor that the teacher has not.
    """
    given = anatomy.model.state_dict()
    for name, target in student.state_dict().items():
        source_name, place = _source(name, anatomy, plan)
        if source_name not in given:
            raise RunError(f"The student has a tensor that its teacher lacks ({name}), so it cannot be made from it.")
        value = _sliced(given[source_name], name, anatomy, plan, place)
        if value.shape != target.shape:
            raise RunError(
                f"{source_name} of the teacher gives {tuple(value.shape)} and the student wants {tuple(target.shape)}: "
                f"students of a {anatomy.model.config.model_type} model cannot be made this way."
            )
        target.copy_(value)


@torch.no_grad()
def check(student: Any, anatomy: Anatomy, plan: Plan, seed: int) -> float:
    """How far the student's logits are from those of its teacher with the other parts masked, on random tokens: mean
    difference in standard deviations. Raises RunError where that is more than rounding."""
    generator = torch.Generator().manual_seed(seed)
    device = next(student.parameters()).device
    ids = torch.randint(0, student.config.vocab_size, (1, _CHECKED_TOKENS), generator=generator).to(device)
    own = student(input_ids=ids, use_cache=False).logits.float()
    with only(anatomy, plan):
        theirs = anatomy.model(input_ids=ids, use_cache=False).logits.float()
    off = float((own - theirs).abs().mean() / theirs.std())
    if not off <= _TOLERANCE.get(student.dtype, _LOW_PRECISION):
        raise RunError(
            "The student does not compute what its teacher does with the other parts left out (its logits are "
            f"{off:.2g} standard deviations off): no student of a {anatomy.model.config.model_type} model can be made "
            "this way."
        )
    return off


def _source(name: str, anatomy: Anatomy, plan: Plan) -> tuple[str, int | None]:
    """The teacher's name of a student's tensor, and the place of its layer in the plan."""
    start = f"{anatomy.prefix}."
    if not name.startswith(start):
        return name, None
    number, rest = name.removeprefix(start).split(".", 1)
    return f"{start}{plan.layers[int(number)]}.{rest}", int(number)


def _sliced(value: Tensor, name: str, anatomy: Anatomy, plan: Plan, place: int | None) -> Tensor:
    """The part of a teacher's tensor that the student has."""
    family = anatomy.family
    if family is None:
        return value
    short = name if place is None else name.removeprefix(f"{anatomy.prefix}.").split(".", 1)[1]
    axes = (family.outside if place is None else family.layer).get(short)
    if axes is None:
        return value
    for dimension, axis in enumerate(axes):
        kept = _kept(axis, anatomy, plan, place)
        if kept is not None:
            value = value.index_select(dimension, torch.tensor(kept, device=value.device))
    if plan.channels is None or "channels" not in axes:
        return value
    root = math.sqrt(anatomy.channels / len(plan.channels))
    if axes == ("channels",) and short.endswith("norm.weight"):
        # Gemma multiplies its embeddings by sqrt(D') from now on, so they are larger by the root here, and with them a
        # tied head, which then does what the last norm's weight would.
        factor = 1.0 if place is None and family.scales_embeddings and _tied(anatomy) else root
        return ((value.float() + family.norm_offset) * factor - family.norm_offset).to(value.dtype)
    embeds = short.endswith("embed_tokens.weight") or (short == "lm_head.weight" and _tied(anatomy))
    return (value.float() * root).to(value.dtype) if embeds and family.scales_embeddings else value


def _tied(anatomy: Anatomy) -> bool:
    return bool(getattr(anatomy.model.config, "tie_word_embeddings", False))


def _kept(axis: str | None, anatomy: Anatomy, plan: Plan, place: int | None) -> Sequence[int] | None:
    """Positions of an axis that stay; None: all."""
    if axis == "channels":
        return plan.channels
    if place is None or axis is None:
        return None
    if axis == "neurons":
        return None if plan.neurons is None else plan.neurons[place]
    heads = plan.heads if axis == "queries" else plan.groups
    if heads is None:
        return None
    size = anatomy.head_size
    return [head * size + offset for head in heads[place] for offset in range(size)]
