"""A language model of bytes, untrained, as a plain Hugging Face directory: where demonstrations from scratch start.

    python scripts/byte_model.py OUT [--window 256] [--layers 4] [--hidden 256] [--heads 8] [--local 8] [--seed 0]

Every byte is one token, so every text is exact and nothing is downloaded. The model is a small Ministral of 3.3 million
weights with the defaults: every other layer sees the last few bytes only (--local), the others see everything. From
such layers, and embeddings that are large beside what the layers add at first, a small model learns within minutes to
look up what it has read; without them it takes far longer to find out that neighbours matter.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

BYTES = 256
END = 0
"""The byte that ends a text: no text holds it."""


def byte_tokenizer() -> Any:
    """A tokenizer whose ids are bytes; <0x00> ends a text."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(BYTES)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    end = f"<0x{END:02X}>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


def byte_model(
    *, window: int, layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int, theta: float,
    seed: int,
) -> Any:  # fmt: skip
    """A Llama with random weights in fp32. A vocabulary beyond the bytes makes a head as wide as a real one's."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    return LlamaForCausalLM(config)


def byte_reader(*, window: int, layers: int, hidden: int, heads: int, local: int, seed: int) -> Any:
    """A Ministral with random weights in fp32 whose layers see ``local`` bytes and all bytes by turns.

    All layers have the same rotary positions, so stretching them costs what it costs other models: nearby bytes, too,
    are told apart by positions that were moved.
    """
    import torch
    from transformers import MinistralConfig, MinistralForCausalLM

    torch.manual_seed(seed)
    config = MinistralConfig(
        vocab_size=BYTES,
        hidden_size=hidden,
        intermediate_size=11 * hidden // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        head_dim=hidden // heads,
        layer_types=["full_attention" if number % 2 else "sliding_attention" for number in range(layers)],
        sliding_window=local,
        initializer_range=0.04,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    model = MinistralForCausalLM(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=0.6)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name, default in (("window", 256), ("layers", 4), ("hidden", 256), ("heads", 8), ("local", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    out = options.pop("out")
    model = byte_reader(**options)
    model.save_pretrained(out)
    byte_tokenizer().save_pretrained(out)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights in {out}")


if __name__ == "__main__":
    main()
