"""A base and two fine-tunes of 1.10 B parameters (the shape of TinyLlama), bf16, in shards of 600 MB: what merge_speed
merges. They are random, and their task vectors are of low rank with a little noise on top.

    python scripts/bench/merge_inputs.py DIR [--layers 22] [--small]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FULL = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NAMES = ("base", "ft_a", "ft_b")


def shapes(size: dict[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a Llama's tensors."""
    wide, inner = size["hidden_size"], size["intermediate_size"]
    narrow = wide // size["num_attention_heads"] * size["num_key_value_heads"]
    yield "model.embed_tokens.weight", (size["vocab_size"], wide)
    for layer in range(size["num_hidden_layers"]):
        for name, shape in {
            "self_attn.q_proj": (wide, wide),
            "self_attn.k_proj": (narrow, wide),
            "self_attn.v_proj": (narrow, wide),
            "self_attn.o_proj": (wide, wide),
            "mlp.gate_proj": (inner, wide),
            "mlp.up_proj": (inner, wide),
            "mlp.down_proj": (wide, inner),
            "input_layernorm": (wide,),
            "post_attention_layernorm": (wide,),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (wide,)
    yield "lm_head.weight", (size["vocab_size"], wide)


def make_models(place: Path, size: dict[str, int], room: int) -> None:
    """Base, ft_a and ft_b: random weights, and those with task vectors of low rank and a little noise; bf16 shards."""
    import torch
    from safetensors.torch import save_file

    def weights(place: int, shape: tuple[int, ...], tune: int) -> Any:
        drawn = torch.Generator().manual_seed(place)
        plain = torch.randn(shape, generator=drawn) * 0.02 if len(shape) > 1 else torch.ones(shape)
        plain = plain.bfloat16().float()
        if tune:
            drawn = torch.Generator().manual_seed(tune * 100_003 + place)
            if len(shape) > 1:
                low = torch.randn(shape[0], 16, generator=drawn) @ torch.randn(16, shape[1], generator=drawn) / 4
                plain += 0.0006 * low + 0.0002 * torch.randn(shape, generator=drawn)
            else:
                plain += 0.02 * torch.randn(shape, generator=drawn)
        return plain.bfloat16()

    for tune, name in enumerate(NAMES):
        directory = place / name
        directory.mkdir(parents=True, exist_ok=True)
        write_beside(directory, size)
        shards: list[list[tuple[int, str, tuple[int, ...]]]] = []
        left = 0
        for at, (tensor, shape) in enumerate(shapes(size)):
            if left < (count := math.prod(shape) * 2):
                shards.append([])
                left = room
            left -= count
            shards[-1].append((at, tensor, shape))
        where: dict[str, str] = {}
        total = 0
        for at, shard in enumerate(shards, 1):
            file = f"model-{at:05d}-of-{len(shards):05d}.safetensors"
            made = {tensor: weights(seed, shape, tune) for seed, tensor, shape in shard}
            save_file(made, directory / file, metadata={"format": "pt"})
            where |= dict.fromkeys(made, file)
            total += sum(one.numel() * 2 for one in made.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_beside(directory: Path, size: dict[str, int]) -> None:
    """The config and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models

    words = ["<unk>", "<s>", "</s>", *(f"t{n}" for n in range(3, size["vocab_size"]))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.save(str(directory / "tokenizer.json"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    named = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (directory / "tokenizer_config.json").write_text(json.dumps(named))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **size,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))


def main() -> None:
    parser = argparse.ArgumentParser(description="A base and two fine-tunes of 1.10 B parameters in bf16.")
    parser.add_argument("place", type=Path)
    parser.add_argument("--layers", type=int, default=FULL["num_hidden_layers"])
    parser.add_argument("--small", action="store_true", help="0.9 M parameters")
    options = parser.parse_args()
    if options.small:
        make_models(options.place, SMALL, 1_000_000)
    else:
        make_models(options.place, FULL | {"num_hidden_layers": options.layers}, 600_000_000)


if __name__ == "__main__":
    main()
