"""One answer to each of many held-out prompts; those of a model that many runs start from are kept on the disk.

A sweep asks the same of its starting model at every point. What it answers depends on nothing but the model, the
prompts and how answers are drawn, so it is written once.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignkit.console.progress import counting
from alignkit.data.encoding.tokenizing import prompt_ids
from alignkit.data.rows import HeldOut, Said
from alignkit.evaluation.sampling import Sample, as_sample, pad_id, sample_ids
from alignkit.evaluation.stopping import stop_tokens
from alignkit.models.gguf_cache import cache_root

SEMANTICS = 1
"""Raised when answers are drawn in another way."""
KEPT = 512
"""Files kept, the newest; each holds the answers to one set of prompts, some 50 kB."""


def answered(
    model: Any,
    tokenizer: Any,
    rows: Sequence[HeldOut],
    *,
    what: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch: int,
    known_as: str | None = None,
) -> list[Sample]:
    """An answer to the prompt of each row; see ``sample_ids`` and ``answered_ids``."""
    return answered_ids(
        model,
        tokenizer,
        [prompt_ids(tokenizer, prompt_of(row), row.tools) for row in rows],
        what=what,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch=batch,
        known_as=known_as,
    )


def answered_ids(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    what: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch: int,
    known_as: str | None = None,
) -> list[Sample]:
    """An answer to each prompt, given as tokens.

    Args:
        what: what the progress is called.
        known_as: a digest of all that decides what the model says (contents, number format, device). With it the
            answers come from the disk where they were written before, and are kept there; None: they are not kept.
    """
    stop = stop_tokens(model, tokenizer)
    file = None
    if known_as is not None:
        asked = [SEMANTICS, known_as, prompts, sorted(stop), max_new_tokens, temperature, seed, batch]
        file = cache_root() / "answers" / f"{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]}.json"
        found = _read(file, len(prompts))
        if found is not None:
            return [as_sample(tokenizer, ids, stop) for ids in found]
    with counting(what, len(prompts)) as done:
        written = sample_ids(
            model,
            prompts,
            stop=stop,
            pad_id=pad_id(tokenizer),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            batch=batch,
            progress=done,
        )
    if file is not None:
        _write(file, [ids for [ids] in written])
    return [as_sample(tokenizer, ids, stop) for [ids] in written]


def prompt_of(row: HeldOut) -> Said:
    """The prompt of a row that asks something."""
    assert row.prompt is not None
    return row.prompt


def _read(file: Path, count: int) -> list[list[int]] | None:
    """The answers in a file; None where there is none, or it was altered."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        answers, digest = found["answers"], found["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if digest != _digest(answers) or len(answers) != count:
        return None
    with suppress(OSError):
        os.utime(file)  # it counts as used now
    return [list(ids) for ids in answers]


def _write(file: Path, answers: list[list[int]]) -> None:
    """Keep answers; a disk that refuses costs the next run some time and this one nothing."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{uuid.uuid4().hex}")
        temporary.write_text(json.dumps({"digest": _digest(answers), "answers": answers}), encoding="utf-8")
        temporary.rename(file)
        others = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for old in others[:-KEPT]:
            old.unlink(missing_ok=True)


def _digest(answers: list[list[int]]) -> str:
    return hashlib.sha256(json.dumps(answers).encode()).hexdigest()
