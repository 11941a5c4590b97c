"""Pre-tokenizers that transformers' GGUF conversion loses.

A GGUF names its pre-tokenizer (`tokenizer.ggml.pre`); for byte-level BPE, transformers 5.23 always installs
GPT-2's. Families that split digits then tokenize runs of spaces before a number in another way than the model
was trained on. The settings here are those of the models' own tokenizer.json files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignkit.models.gguf_header import read_values

DIGITS_THEN_BYTE_LEVEL = ("smollm", "starcoder", "refact", "command-r")


def repair_pre_tokenizer(tokenizer: Any, gguf: Path) -> None:
    """Give `tokenizer` the pre-tokenizer that the GGUF names, where that is a known one of the digit-splitting kind."""
    from tokenizers import pre_tokenizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    name = read_values(gguf, ("tokenizer.ggml.pre",), limit=None).get("tokenizer.ggml.pre")
    if backend is None or name not in DIGITS_THEN_BYTE_LEVEL:
        return
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
