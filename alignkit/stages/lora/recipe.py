"""Options of the lora stage: supervised fine-tuning of a low-rank adapter on a frozen base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from alignkit.config.sections import Adapter
from alignkit.errors import Fault
from alignkit.stages.sft.recipe import Recipe as SftRecipe


@dataclass(kw_only=True)
class Recipe(SftRecipe):
    """Supervised fine-tuning that trains an adapter: LoRA, DoRA, and on quantized bases QLoRA."""

    adapter: Adapter = field(default_factory=lambda: Adapter(kind="lora"))

    def faults(self) -> Iterator[Fault]:
        yield from super().faults()
        if self.adapter.kind == "none":
            yield Fault(
                where="adapter.kind",
                what="the lora stage trains an adapter, and adapter.kind is none",
                instead="Write adapter=lora or adapter=dora, or use recipe=sft for full fine-tuning.",
            )
