"""Which hidden states of a run are compared: the map of layers, the projections, and the loss at labelled tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from alignkit.data.rows import UNTRAINED
from alignkit.errors import Fault, RequestError
from alignkit.evaluation.inference import bare
from alignkit.stages.distill.losses.hidden import Projections, layer_map, layered
from alignkit.stages.distill.recipe import Hidden
from alignkit.teachers.live import LiveTeacher


@dataclass
class HiddenStates:
    """A loss on hidden states, ready to be asked."""

    teacher: LiveTeacher
    kind: str
    weight: float
    layers: dict[int, int]
    """The student's to the teacher's."""
    projections: Projections

    def loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: Mapping[str, Any]) -> Tensor:
        """(N,) at the labelled tokens, with their weights. States are (B, T, ·) of the embedding and of every layer."""
        labels = batch["labels"]
        mask = labels != UNTRAINED  # (B, T)
        mask[..., 0] = False  # no token is predicted at the first place
        used = self.projections if len(self.projections.maps) else None
        found = layered(self.kind, student, teacher, self.layers, mask, used)
        weights = batch.get("loss_weights")
        return found if weights is None else found * weights[mask].to(found)


def hidden_states(options: Hidden, model: Any, teacher: Any, record: Any, *, seed: int) -> HiddenStates | None:
    """The loss that a recipe asks for; None: none. ``record``: what a made student took of its teacher, or None.

    Raises RequestError for layers that do not exist.
    """
    if options.loss == "none":
        return None
    assert isinstance(teacher, LiveTeacher)
    ours, theirs = (bare(one).config.get_text_config() for one in (model, teacher.model))
    layers = _layers(options, ours.num_hidden_layers, theirs.num_hidden_layers, record)
    differ = ours.hidden_size != theirs.hidden_size
    if differ and options.projection is False:
        raise RequestError(
            Fault(
                where="distill.hidden.projection",
                what=f"is false, and the student has {ours.hidden_size} channels and the teacher {theirs.hidden_size}",
                instead="Write distill.hidden.projection=auto.",
            )
        )
    projected = options.projection is True or differ
    projections = Projections(sorted(layers) if projected else [], ours.hidden_size, theirs.hidden_size, seed=seed)
    return HiddenStates(
        teacher=teacher,
        kind=options.loss,
        weight=options.weight,
        layers=layers,
        projections=projections.to(next(model.parameters()).device),
    )


def _layers(options: Hidden, ours: int, theirs: int, record: Any) -> dict[int, int]:
    where = "distill.hidden.layers"
    if options.layers:
        found = {}
        for text, other in options.layers.items():
            own = int(text) if text.lstrip("-").isdigit() else None
            if own is None or not -ours - 1 <= own <= ours or not -theirs - 1 <= other <= theirs:
                raise RequestError(
                    Fault(
                        where=f"{where}.{text}",
                        what=f"maps layer {text} to {other}, and the student has layers 0 to {ours}, the teacher 0 to "
                        f"{theirs} (0 is the embedding, -1 the last)",
                    )
                )
            found[own % (ours + 1)] = other % (theirs + 1)
        return found
    if record is not None and len(record.layers) == ours:
        return {own: taken + 1 for own, taken in enumerate(record.layers, 1)}
    try:
        return layer_map(ours, theirs)
    except ValueError as error:
        raise RequestError(Fault(where=where, what=str(error), instead="Write the layers to compare.")) from error
