"""Tiny base models: no chat template, no tokens for turns, an eos that only ends texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny import build_model

END = "<|endoftext|>"


def base_tokenizer(
    *, specials: tuple[str, ...] = (END,), bos: str | None = None, eos: str | None = END, pad: str | None = None
) -> Any:
    """Bytes and a few special tokens; with `bos`, that token is written before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=list(specials),
    )


def save_base(directory: Path, kind: str = "llama", *, vocab: int = 257, **changes: Any) -> Path:
    """Model and tokenizer as a directory; the vocabulary is as large as the tokenizer's."""
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    build_model(kind, vocab=vocab, **{**ends, **changes}).save_pretrained(directory)
    base_tokenizer().save_pretrained(directory)
    return directory
