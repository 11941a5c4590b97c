"""A language model of bytes, untrained, as a plain Hugging Face directory: where demonstrations from scratch start.

    python scripts/byte_model.py OUT [--window 256] [--layers 4] [--hidden 256] [--heads 4] [--seed 0] …

Every byte is one token, so every text is exact and nothing is downloaded. The model is a Llama with tied embeddings;
with the defaults it has 3.1 million weights. A vocabulary beyond the bytes makes a head as wide as a real one's.
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
    *, window: int, layers: int, hidden: int, heads: int, vocabulary: int, seed: int, inner: int | None = None,
    kv_heads: int | None = None, theta: float = 10_000.0, biases: bool = False, spread: float = 0.02,
) -> Any:  # fmt: skip
    """A Llama with random weights of standard deviation `spread`, in fp32.

    `biases` of queries and keys let a head look at a distance whatever stands there.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner or 8 * hidden // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        tie_word_embeddings=True,
        attention_bias=biases,
        initializer_range=spread,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=END,
    )
    return LlamaForCausalLM(config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name, default in (("window", 256), ("layers", 4), ("hidden", 256), ("heads", 4), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--vocabulary", type=int, default=BYTES)
    parser.add_argument("--biases", action="store_true", help="of the attention's projections")
    parser.add_argument("--spread", type=float, default=0.02, help="standard deviation of the weights")
    options = vars(parser.parse_args())
    out = options.pop("out")
    model = byte_model(**options)
    model.save_pretrained(out)
    byte_tokenizer().save_pretrained(out)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights in {out}")


if __name__ == "__main__":
    main()
