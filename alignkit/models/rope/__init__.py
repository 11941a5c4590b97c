"""Rotary position embeddings, stretched: frequencies of every method, and what a configuration must say of them.

    state = read_rope(config)                      what the model has now
    faults = rope_faults(config, options, target)  what cannot work, before anything is loaded
    plan = plan_rope(config, options, target)      the values its configuration gets
    apply_rope(config, plan)                       into a configuration that no model was built from yet

`config` is what config.json holds (a dictionary) or a transformers configuration. Only `live` needs torch: it sets a
plan on a model that stands (`change_rope`), for a while (`tried_rope`), and holds frequencies that follow the input's
length (`held_rope`). `search` finds LongRoPE's factors. `rules` is the maths, `compose` what a method makes of a
checkpoint that is stretched already.
"""

from alignkit.models.rope.applying import apply_rope
from alignkit.models.rope.checking import rope_faults
from alignkit.models.rope.plan import RopePlan
from alignkit.models.rope.planning import plan_rope
from alignkit.models.rope.reading import RopeState, describe, read_rope
from alignkit.models.rope.rules import Frequencies, frequencies

__all__ = [
    "Frequencies",
    "RopePlan",
    "RopeState",
    "apply_rope",
    "describe",
    "frequencies",
    "plan_rope",
    "read_rope",
    "rope_faults",
]
