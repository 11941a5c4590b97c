"""A step of distillation beside a step of plain fine-tuning: from a cache, and from live teachers of several sizes.

    python scripts/bench/distill_speed.py [--model DIRECTORY] [--rows 48] [--length 256] [--steps 12] [--times 1,2,4]

Everything runs through alignkit's own trainers on the same rows (random tokens of SmolLM2's vocabulary, half of them
with loss), in turns: each round trains a few steps of each kind, and the median over the rounds counts, so that
whatever else the machine does meets all of them. Without --model the student has SmolLM2-135M's shape (30 layers of 576
channels, 49,152 tokens, tied) at a third of its depth, with random weights: speed does not depend on what they say. A
teacher of n times the student's size has n times its layers. Prints one JSON object: seconds a step, the ratio to
plain fine-tuning, and the cache's bytes a token with loss. `--toy` takes a tiny model, to see that the script works.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

SEED = 5


def write_rows(path: Path, rows: int, tokenizer: Any, length: int) -> None:
    """Prompts and completions of about ``length`` tokens together, half of them each."""
    rng = random.Random(SEED)
    words = [w for w in (tokenizer.decode([i]) for i in range(300, 2300)) if w.isascii() and w.strip().isalpha()]
    words = words or [chr(c) for c in range(97, 123)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            half = ["".join(rng.choices(words, k=length // 2)) for _ in range(2)]
            file.write(json.dumps({"prompt": half[0], "completion": half[1]}) + "\n")


def save_model(directory: Path, layers: int, tokenizer: Any, *, toy: bool) -> Path:
    """A randomly initialised Llama of SmolLM2-135M's width."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    width = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    if not toy:
        width = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    torch.manual_seed(SEED)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(tokenizer) if toy else 49152,
        num_hidden_layers=layers,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **width,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def seconds_a_step(recipe: str, words: Sequence[str], root: Path) -> list[float]:
    """Train anew and return the seconds of each step but the first, from the run's own metrics."""
    from transformers import Trainer

    import alignkit

    times: list[float] = []
    plain = Trainer.get_batch_samples

    def stamped(self: Any, *args: Any, **kwargs: Any) -> Any:
        times.append(time.perf_counter())
        return plain(self, *args, **kwargs)

    Trainer.get_batch_samples = stamped  # type: ignore[method-assign, unused-ignore]
    try:
        alignkit.train(recipe, [*words, f"run.root={root}"], fresh=True, verbosity=-1)
    finally:
        Trainer.get_batch_samples = plain  # type: ignore[method-assign, unused-ignore]
    return [b - a for a, b in pairwise(times[1:])]


def main() -> None:
    """Measure and print."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--model", type=Path, help="a student; its tokenizer and shape are taken")
    parse.add_argument("--rows", type=int, default=48)
    parse.add_argument("--length", type=int, default=256, help="tokens of a row")
    parse.add_argument("--steps", type=int, default=8)
    parse.add_argument("--rounds", type=int, default=3)
    parse.add_argument("--times", default="1,2,4", help="sizes of the teachers, in students")
    parse.add_argument("--entries", type=int, default=50, help="k of the cache")
    parse.add_argument("--toy", action="store_true")
    asked = parse.parse_args()
    from transformers import AutoTokenizer

    import alignkit

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if asked.toy:
            sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
            from tests.tiny import build_tokenizer

            tokenizer = build_tokenizer()
        elif asked.model:
            tokenizer = AutoTokenizer.from_pretrained(asked.model)
        else:
            from alignkit.config.compose import compose
            from alignkit.models.loading import load_tokenizer

            tokenizer = load_tokenizer(compose("sft", ["model=smollm2-135m", "data=x"]).recipe.model)
        layers = 2 if asked.toy else 10
        student = asked.model or save_model(root / "student", layers, tokenizer, toy=asked.toy)
        depth = json.loads((student / "config.json").read_text())["num_hidden_layers"]
        data = root / "rows.jsonl"
        write_rows(data, asked.rows, tokenizer, asked.length)
        shared = [f"data={data}", "data.holdout=0", "data.max_length=2048"]
        common = [
            *shared,
            f"model={student}",
            "evaluation.rows=0",
            "batch.size=4",
            "batch.micro=4",
            f"schedule.max_steps={asked.steps + 2}",
            "checkpoint.every=1000000",
        ]
        kinds: dict[str, tuple[str, list[str]]] = {"plain": ("sft", [])}
        teachers = {}
        for times in map(int, asked.times.split(",")):
            teachers[times] = save_model(root / f"teacher{times}", depth * times, tokenizer, toy=asked.toy)
            kinds[f"live x{times}"] = ("distill", [f"teacher={teachers[times]}"])
        words = [f"teacher={next(iter(teachers.values()))}", *shared, f"cache.entries={asked.entries}"]
        kept = alignkit.train("teacher-cache", [*words, f"run.root={root / 'cache'}"], verbosity=-1)
        kinds["cached"] = ("distill", [f"distill.cache={kept['path']}"])
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(asked.rounds):
            for name, (recipe, own) in kinds.items():
                found[name].append(statistics.median(seconds_a_step(recipe, [*common, *own], root / "runs")))
        seconds = {name: statistics.median(each) for name, each in found.items()}
        told = {
            "seconds_a_step": {name: round(value, 4) for name, value in seconds.items()},
            "ratio_to_plain": {name: round(value / seconds["plain"], 3) for name, value in seconds.items()},
            "rounds": {name: [round(value, 4) for value in each] for name, each in found.items()},
            "cache": {key: value for key, value in kept["metrics"].items() if key in ("cache", "teacher_cache")},
        }
        print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
