"""Which number format is stored and which one is computed in, and how rows lie in a batch."""

from __future__ import annotations

import dataclasses

import torch

from alignkit.config.recipe import GradientRecipe
from alignkit.config.sections import Model
from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.models.attention import VARLEN, can_isolate
from alignkit.models.loading import Loaded, choose_dtype


def model_section(recipe: GradientRecipe) -> Model:
    """The model section to load with.

    Weights that are trained in full are kept in fp32 under `auto`: at usual learning rates most bf16 updates round
    away. The matrix products still run in bf16 (see ``autocast``). Frozen weights are loaded in the device's format.
    """
    if recipe.adapter.kind == "none" and recipe.model.dtype == "auto":
        return dataclasses.replace(recipe.model, dtype="fp32")
    return recipe.model


def autocast(recipe: GradientRecipe, loaded: Loaded) -> str | None:
    """The format ("bf16", "fp16") that products are computed in while training; None: the weights' own.

    With bf16 weights and a plain LoRA there is nothing left to cast: the fused pass rounds the adapter itself
    (models/fused_lora.py), and autocast would look at every operation in vain.
    """
    if recipe.adapter.kind == "none" and recipe.model.dtype == "auto":
        wanted = choose_dtype(recipe.model, loaded.device)
    else:
        wanted = loaded.dtype
        adapter = recipe.adapter
        plain = adapter.kind == "lora" and not adapter.dropout and adapter.init not in ("pissa", "olora")
        if wanted == torch.bfloat16 and plain and not loaded.quantized and not adapter.modules_to_save:
            return None
    return {"torch.bfloat16": "bf16", "torch.float16": "fp16"}.get(str(wanted))


def layout(recipe: GradientRecipe, loaded: Loaded) -> str:
    """ "flattened" (rows end to end, no padding, each attending to itself only) or "padded".

    Flattening is taken only after this model has shown, on two short documents, that they do not see each other.
    """
    if not recipe.data.packing:
        return "padded"
    if loaded.attention not in (VARLEN, "flash_attention_2"):
        reason = f"{loaded.attention} attention knows no document boundaries"
    elif not can_isolate(loaded.model):
        reason = "this model's layers would let one row see another"
    else:
        return "flattened"
    if recipe.data.packing == "best-fit":
        what = f"rows cannot share a block: {reason}"
        raise RequestError(Fault(where="data.packing", what=what, instead="Write data.packing=false."))
    log.say(f"rows are padded, not laid end to end: {reason}")
    return "padded"


CPU_WIDTH = 16
"""Rows of a tile in which CPUs compute products in 16 bits: padding up to it is nearly free."""


def width_multiple(loaded: Loaded) -> int | None:
    """What the tokens of a flattened batch are padded to a multiple of; None: not at all.

    On a CPU oneDNN compiles every product for its shape and keeps the code, some 0.4 MB each. Rows laid end to end are
    of another total length in every batch: a small model's process grew by 6 MB a step, without an end. A router is
    trained on every token that it sees, so models with one are not padded.
    """
    routed = hasattr(loaded.model.config.get_text_config(), "output_router_logits")
    return CPU_WIDTH if loaded.device.type == "cpu" and not routed else None
