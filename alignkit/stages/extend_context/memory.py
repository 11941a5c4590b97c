"""What a step on a long row takes, estimated from a model's shape before it is loaded, and what would make it fit.

T tokens of a row, L layers, D hidden size, h heads, k key/value heads, d head size, m inner size of the MLP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from alignkit.console import log
from alignkit.errors import Fault, RequestError
from alignkit.stages.extend_context.recipe import Recipe

SHARE = 0.9
"""Share of the free memory that may be planned with."""
TILE = 2048
"""memory.mlp_tile=auto. Smaller tiles save little more, and their products are slower."""
HEAD_BYTES = 3 * 32 * 2**20
"""Logits of one chunk of positions, with what is made of them (training/token_scores.py)."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, from its configuration."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a transformers configuration."""
        text = config.get_text_config()
        heads, hidden = text.num_attention_heads, text.hidden_size
        return cls(
            layers=text.num_hidden_layers,
            hidden=hidden,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or hidden // heads,
            inner=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden,
            vocabulary=text.vocab_size,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )

    @property
    def attention(self) -> int:
        """Values of queries, keys, values and outputs of a token in one layer."""
        return 2 * (self.heads + self.kv_heads) * self.head_dim

    @property
    def weights(self) -> int:
        """Numbers in the model; a gated MLP is assumed."""
        layer = self.hidden * self.attention + 3 * self.hidden * self.inner + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def adapter(self, rank: int) -> int:
        """Numbers in a low-rank adapter on every linear layer."""
        layer = 2 * self.hidden + self.attention + 2 * self.hidden + 3 * (self.hidden + self.inner)
        return self.layers * rank * layer


@dataclass(frozen=True)
class Step:
    """A training step: how long its rows are, and which levers are pulled."""

    tokens: int
    trained: int
    """Weights that learn: each has a gradient and two moments in fp32."""
    weight_bytes: float
    """Bytes of a weight."""
    value_bytes: int
    """Bytes of an activation."""
    checkpointing: bool
    offload: bool
    tile: int | None

    def bytes(self, shape: Shape) -> int:
        """Memory of the device at the worst moment."""
        return int(self.fixed(shape) + self.tokens * self.slope(shape))

    def fixed(self, shape: Shape) -> float:
        """Bytes that do not depend on the row."""
        return shape.weights * self.weight_bytes + 12 * self.trained + HEAD_BYTES

    def slope(self, shape: Shape) -> float:
        """Bytes a token: inputs of layers that are kept, one layer at work, the head's states.

        A layer at work keeps the inputs of its norms (in fp32 too) and products and what attention looks at; of the
        MLP's inner values four, for all tokens or for those of a tile.
        """
        tokens = min(self.tile or self.tokens, self.tokens)
        inner = 4 * shape.inner * tokens / self.tokens
        layer = (6 * shape.hidden + shape.attention + inner) * self.value_bytes + 2 * shape.hidden * 4
        kept = 0 if self.offload else shape.layers * shape.hidden * self.value_bytes
        states = 3 * shape.hidden * self.value_bytes
        return states + (layer + kept if self.checkpointing else shape.layers * layer)


def step_of(recipe: Recipe, shape: Shape, tokens: int, *, gpu: bool, half: bool) -> Step:
    """The step that a recipe asks for. ``half``: products are computed in 16 bits."""
    adapter = recipe.adapter
    trained, weight_bytes = shape.weights, 4.0
    if adapter.kind != "none":
        trained = shape.adapter(adapter.rank)
        whole = "embeddings" in recipe.context.also_train or bool(adapter.modules_to_save)
        trained += shape.vocabulary * shape.hidden if whole else 0
        weight_bytes = {"none": 2.0 if half else 4.0, "int8": 1.1}.get(recipe.quantization.kind, 0.6)
    checkpointing = recipe.memory.gradient_checkpointing is not False
    offload = gpu and checkpointing and recipe.memory.offload is not False
    return Step(tokens, trained, weight_bytes, 2 if half else 4, checkpointing, offload, tile_of(recipe, tokens))


def tile_of(recipe: Recipe, tokens: int) -> int | None:
    """Tokens that an MLP takes at once; None: all."""
    wanted = recipe.memory.mlp_tile
    if wanted == "off":
        return None
    tile = TILE if wanted == "auto" else wanted
    return tile if tokens > tile else None


def require_room(recipe: Recipe, shape: Shape, tokens: int, *, gpu: bool, half: bool, free: int) -> Step:
    """The step asked for, when it fits into ``free`` bytes by the estimate.

    Raises RequestError with the estimate and the settings that would fit.
    """
    asked = step_of(recipe, shape, tokens, gpu=gpu, half=half)
    room = int(SHARE * free)
    if asked.bytes(shape) <= room:
        return asked
    fitting = [said for step, said in _smaller(recipe, shape, asked, gpu) if step.bytes(shape) <= room]
    longest = int((room - asked.fixed(shape)) / asked.slope(shape)) // 1024 * 1024
    if longest >= 1024:
        fitting.append(f"context.length={longest}")
    instead = (
        f"By the same estimate these would fit: {'; '.join(fitting[:4])}."
        if fitting
        else ("No setting of this recipe would fit; a smaller model, quantization=nf4 or more memory would.")
    )
    raise RequestError(
        Fault(
            where="context.length",
            what=f"a step on rows of {tokens:,} tokens takes about {_gb(asked.bytes(shape))}, of which "
            f"{asked.slope(shape) / 1024:.0f} KB a token, and {_gb(free)} are free",
            instead=instead,
        )
    )


def _smaller(recipe: Recipe, shape: Shape, asked: Step, gpu: bool) -> Iterator[tuple[Step, str]]:
    """Steps that take less, and how to ask for them: each lever on top of those before."""
    words: list[str] = []
    step = asked
    if not step.checkpointing:
        words.append("memory.gradient_checkpointing=true")
        step = replace(step, checkpointing=True, offload=gpu and recipe.memory.offload is not False)
        yield step, " ".join(words)
    if step.tile is None and step.tokens > TILE:
        words.append(f"memory.mlp_tile={TILE}")
        step = replace(step, tile=TILE)
        yield step, " ".join(words)
    if gpu and not step.offload:
        words.append("memory.offload=true")
        step = replace(step, offload=True)
        yield step, " ".join(words)
    if recipe.adapter.kind == "none":
        words.append("adapter=lora")
        step = replace(step, trained=shape.adapter(recipe.adapter.rank), weight_bytes=float(step.value_bytes))
        yield step, " ".join(words)
    if recipe.adapter.kind != "none" and recipe.context.also_train:
        words.append("context.also_train=[]")
        step = replace(step, trained=shape.adapter(recipe.adapter.rank))
        yield step, " ".join(words)


def offloads(recipe: Recipe, step: Step, shape: Shape, free: int, *, gpu: bool) -> bool:
    """Whether layer inputs wait in the host's memory: as asked, or where they would take a fifth of what is free."""
    if recipe.memory.offload is True and not gpu:
        log.say("memory.offload has nothing to do: there is no GPU")
    if not gpu or not step.checkpointing or recipe.memory.offload is False:
        return False
    kept = step.tokens * shape.layers * shape.hidden * step.value_bytes
    return recipe.memory.offload is True or kept > 0.2 * free


def _gb(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
