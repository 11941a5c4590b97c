"""How a recipe asks for a student that is made from its teacher. No torch in here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from alignkit.errors import Fault


@dataclass(kw_only=True)
class Student:
    """Where the student comes from, and how large it is. Of a made one a size is asked for: layers, parameters or
    fraction."""

    kind: Literal["given", "layers", "depth", "width"] = "given"
    """given: the model section is the student. Made from the teacher: layers takes layers at even distances, the first
    and the last among them (DistilBERT, Sanh et al. 2019); depth leaves out the least important layers; width leaves
    out the least important heads, MLP neurons and channels of every layer (Minitron, Muralidharan et al. 2024)."""
    layers: Annotated[int, Ge(1)] | list[int] | None = None
    """Layers of the student: how many, or with kind=layers which of the teacher's (counted from 0). With kind=width the
    least important layers are left out first; null: all stay."""
    parameters: Annotated[int, Ge(1)] | None = None
    """Parameters of the student, embeddings included (tied ones once); the nearest size there is, is taken."""
    fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the parameters in the teacher's layers, embeddings and head left aside: 0.5 with kind=layers or depth is
    half of the layers."""
    prune: list[Literal["heads", "mlp", "hidden"]] = field(default_factory=lambda: ["heads", "mlp"])
    """What kind=width makes narrower, all in the same proportion: attention heads, MLP neurons, channels of the
    residual stream."""
    multiple: Annotated[int, Ge(1)] = 8
    """Sizes of the MLP and of the residual stream are multiples of this; GPUs like 64 or 128."""
    importance: Literal["block-influence", "loss"] = "block-influence"
    """How a layer's importance is measured. block-influence: one less the cosine of what goes in and what comes out
    (Men et al. 2024), in one pass; loss: how much the loss rises without it, in a pass for each layer (Minitron,
    section 2.2)."""
    rows: Annotated[int, Ge(1)] = 128
    """Training rows that importance is measured on (Minitron: 1,024)."""
    init: Literal["teacher", "random"] = "teacher"
    """random: the same shape with new weights, to see what the teacher's are worth."""

    @property
    def measured(self) -> bool:
        """Whether making it looks at data."""
        return self.init == "teacher" and self.kind in ("depth", "width")

    def faults(self, where: str = "distill.student") -> Iterator[Fault]:
        """Combinations that cannot work. ``where``: the key that the section stands under."""
        sizes = [name for name in ("layers", "parameters", "fraction") if getattr(self, name) is not None]
        if self.kind == "given":
            for name in sizes:
                yield Fault(
                    where=f"{where}.{name}",
                    what="asks for a size, and the student is given by model",
                    instead=f"Write {where}.kind=layers, depth or width to make one from the teacher.",
                )
            if self.init == "random":
                yield Fault(
                    where=f"{where}.init",
                    what="new weights are for a student that is made, and this one is given by model",
                    instead=f"Write {where}.kind=layers, depth or width.",
                )
            return
        if self.kind == "width":
            yield from self._width_faults(where, sizes)
        elif not sizes:
            yield Fault(
                where=where,
                what=f"kind={self.kind} needs a size",
                instead=f"Write {where}.layers, {where}.parameters or {where}.fraction.",
            )
        elif len(sizes) > 1:
            yield Fault(
                where=f"{where}.{sizes[1]}",
                what=f"{where}.{sizes[0]} asks for a size already",
                instead="Write one of them.",
            )
        if isinstance(self.layers, list):
            yield from self._list_faults(where, self.layers)

    def _width_faults(self, where: str, sizes: list[str]) -> Iterator[Fault]:
        wanted = [name for name in sizes if name != "layers"]
        if len(wanted) != 1:
            yield Fault(
                where=where,
                what="kind=width needs a size" if not wanted else "parameters and fraction both ask for a size",
                instead=f"Write {where}.parameters or {where}.fraction.",
            )
        if not self.prune:
            yield Fault(
                where=f"{where}.prune",
                what="is empty: nothing would become narrower",
                instead="Write heads, mlp or hidden, or several of them.",
            )
        if len(set(self.prune)) < len(self.prune):
            yield Fault(where=f"{where}.prune", what="names something twice", instead="Name each once.")

    def _list_faults(self, where: str, layers: list[int]) -> Iterator[Fault]:
        if self.kind != "layers":
            yield Fault(
                where=f"{where}.layers",
                what=f"kind={self.kind} chooses the layers itself",
                instead="Write how many, or kind=layers.",
            )
        elif not layers or any(a >= b for a, b in pairwise(layers)) or layers[0] < 0:
            yield Fault(
                where=f"{where}.layers",
                what=f"{layers} is not a rising list of the teacher's layers, counted from 0",
                instead="Write for example [0,2,4,5].",
            )
