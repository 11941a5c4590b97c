"""A teacher that knows something, a student that does not, and another teacher that reads other tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.stages.runs import train
from tests.tiny import CHATML, build_model, save_tiny

WORDS = ("ab", "cd", "abc", "dd", "bade", "ace", "bed", "cab", "dad", "fed", "ebb", "add")


def write_rows(path: Path, **columns: str) -> Path:
    """Each word and the same in capitals, twelve conversations; more columns with the word in their text."""
    with path.open("w", encoding="utf-8") as file:
        for word in WORDS:
            said = [{"role": "user", "content": word}, {"role": "assistant", "content": word.upper()}]
            row: dict[str, Any] = {"messages": said}
            row |= {name: text.format(word=word) for name, text in columns.items()}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """Four layers, tuned until it answers the rows as they are."""
    root = tmp_path_factory.mktemp("teacher")
    start = save_tiny(root / "start", layers=4, initializer_range=0.2, hidden_size=48, num_attention_heads=4)
    values: dict[str, Any] = {"schedule__max_steps": 90, "checkpoint__every": 90, "data__holdout": 0}
    done = train("sft", start, rows, root / "runs", optimizer__learning_rate="4e-3", batch__size=6, **values)
    assert done["metrics"]["training"]["loss_last"] < 0.2
    return Path(done["path"])


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("student") / "model", seed=3, initializer_range=0.2)


def save_other(directory: Path, rows: Path, root: Path) -> Path:
    """A teacher whose tokenizer has other ids and tokens of two letters, tuned on the same rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    pairs = [("A", "B"), ("D", "D"), ("E", "D"), ("a", "b"), ("b", "e")]
    tokens = [*alphabet, *(a + b for a, b in pairs), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    fast.chat_template = CHATML
    size = len(tokens)
    ids = {"bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 3}
    build_model(layers=3, vocab=size, initializer_range=0.2, **ids).save_pretrained(directory)
    fast.save_pretrained(directory)
    values: dict[str, Any] = {"schedule__max_steps": 90, "checkpoint__every": 90, "data__holdout": 0}
    done = train("sft", directory, rows, root, optimizer__learning_rate="4e-3", batch__size=6, **values)
    return Path(done["path"])


@pytest.fixture(scope="session")
def other_teacher(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    root = tmp_path_factory.mktemp("other")
    return save_other(root / "start", rows, root / "runs")
