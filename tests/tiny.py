"""Tiny models, built in a temporary directory in well under a second: what most tests train and load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_tokenizer(template: str | None = CHATML) -> Any:
    """A byte-level tokenizer without merges: 256 bytes and three special tokens, so every text is exact."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = template
    return fast


def build_model(kind: str = "llama", *, seed: int = 0, vocab: int = 259, layers: int = 2, **changes: Any) -> Any:
    """A randomly initialised causal language model (fp32) of `kind`: llama, qwen2, gpt2 or mistral."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    common: dict[str, Any] = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if kind == "gpt2":
        shape = {"n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 512}
    else:
        shape = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
        }
    config = AutoConfig.for_model(kind, **{**common, **shape, **changes})
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def save_tiny(directory: Path, kind: str = "llama", *, template: str | None = CHATML, **changes: Any) -> Path:
    """Model and tokenizer as a plain Hugging Face directory; returns it."""
    build_model(kind, **changes).save_pretrained(directory)
    build_tokenizer(template).save_pretrained(directory)
    return directory


def write_chats(path: Path, rows: int = 24, *, seed: int = 0) -> Path:
    """Short conversations whose answer is a fixed function of the question, as JSONL with a `messages` column."""
    import random

    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            word = "".join(rng.choice("abcde") for _ in range(rng.randint(2, 8)))
            row = {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": word.upper()}]}
            file.write(json.dumps(row) + "\n")
    return path
