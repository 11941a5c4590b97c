"""What is decided about a model's rotary position embedding: the values its configuration gets. No torch, no numpy."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RopePlan:
    """How a model's configuration is changed so that it takes `target` tokens."""

    method: str
    """The method asked for; `parameters` may hold its result under another type (see compose.py)."""
    parameters: dict[str, Any]
    """`rope_parameters` of the text model's configuration: one dictionary, or one a layer type."""
    positions: int
    """`max_position_embeddings`: the target, but for dynamic NTK, which counts from the window it was trained at."""
    target: int
    """Tokens that the model is to take."""
    present: int
    """Tokens that it took before."""
    original: int
    """Tokens it was first trained at, before any stretching that its configuration knows of."""
    factor: float
    """Stretch over `original`, earlier ones included."""
    said: str
    """One sentence for the log and the model's card."""
    notes: tuple[str, ...] = ()
    """What readers of config.json other than transformers do with it, where they differ; a sentence each."""

    def as_dict(self) -> dict[str, Any]:
        """For a manifest or beside an adapter, as JSON."""
        return {**asdict(self), "parameters": copy.deepcopy(self.parameters), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RopePlan:
        """What `as_dict` wrote. Raises TypeError for other keys."""
        return cls(**{**values, "notes": tuple(values.get("notes", ()))})
