"""Peak memory of a training step on long rows, alignkit and TRL's SFTTrainer, full fine-tuning of a two-layer model.

    python scripts/bench/context_memory.py [--lengths 4096,16384] [--small] [--json FILE]

The model has the sizes and the vocabulary of SmolLM2-135M (49,152 words), two layers of them, and random weights. Each
side trains two steps of one row on the same tokens, each in a process of its own; its peak resident set is what the
system says of that process when it ends. One row is one document of all tokens, or (packed) eight documents of an
eighth each; TRL gets these with packing=True. TRL runs at its defaults; set are its maximal length, which would cut the
rows to 1,024 tokens, one row a step (--eight: also its default of eight), and `use_cpu`, without which it fails on a
CPU. The slope is the difference of two peaks over the difference of the lengths.
`--small` is a quick look at short packed rows on a narrow model.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from byte_model import byte_model, byte_tokenizer

SMOLLM2 = {
    "hidden": 576,
    "inner": 1536,
    "heads": 9,
    "kv_heads": 3,
    "vocabulary": 49152,
    "layers": 2,
    "theta": 100_000.0,
}
NARROW = {**SMOLLM2, "hidden": 64, "inner": 128, "heads": 4, "kv_heads": 2, "vocabulary": 4096}
STEPS = 2
DOCUMENTS = 8
MARGIN = 16
"""Tokens that a row leaves free, for an end-of-text token."""


def write_rows(file: Path, length: int, documents: int, rows: int) -> Path:
    """`rows` times `documents` texts that together have about `length` bytes, which are tokens here."""
    rng = random.Random(length)
    with file.open("w", encoding="utf-8") as out:
        for _ in range(rows * documents):
            text = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz ") for _ in range(length // documents - MARGIN))
            out.write(json.dumps({"text": text}) + "\n")
    return file


def peak_of(command: list[str]) -> int:
    """Run it; bytes of its peak resident set. Raises RuntimeError with the end of what it said where it failed."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"exit code {process.returncode}: {said.read()[-1500:]}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def alignkit_command(model: Path, data: Path, length: int, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "alignkit", "train", "recipe=extend-context", f"model={model}", f"data={data}",
        f"context.length={length}", "adapter=none", "context.also_train=[]", f"schedule.max_steps={STEPS}",
        "batch.size=1", "data.holdout=0", "evaluation.rows=0", f"run.root={out}", "-q",
    ]  # fmt: skip


def trl_command(model: Path, data: Path, length: int, out: Path, *, packed: bool, rows: int) -> list[str]:
    return [
        sys.executable,
        __file__,
        "--trl",
        str(model),
        str(data),
        str(length),
        str(out),
        str(int(packed)),
        str(rows),
    ]


def train_with_trl(model: str, data: str, length: str, out: str, packed: str, rows: str) -> None:
    """TRL's SFTTrainer as it comes."""
    import torch
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    options: dict[str, Any] = {} if rows == "default" else {"per_device_train_batch_size": int(rows)}
    config = SFTConfig(
        output_dir=out,
        max_length=int(length),
        max_steps=STEPS,
        packing=packed == "1",
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        save_strategy="no",
        **options,
    )
    rows_of = load_dataset("json", data_files=data, split="train", cache_dir=f"{out}/cache")
    SFTTrainer(model=model, args=config, train_dataset=rows_of).train()


LAYOUTS = {"one document": 1, "packed": DOCUMENTS}


def measure(
    place: Path, lengths: list[int], shape: dict[str, Any], layouts: dict[str, int], *, full_batch: bool
) -> list[dict[str, Any]]:
    """One line for each length and layout: peaks in bytes."""
    found = []
    for length in lengths:
        model = place / f"model{length}"
        byte_model(window=length // 16, seed=0, **shape).save_pretrained(model)
        byte_tokenizer().save_pretrained(model)
        for layout, documents in layouts.items():
            data = write_rows(place / f"{documents}-{length}.jsonl", length, documents, rows=4)
            out = place / f"out-{documents}-{length}"
            line: dict[str, Any] = {"length": length, "layout": layout}
            line["alignkit"] = peak_of(alignkit_command(model, data, length, out / "runs"))
            packed = documents > 1
            line["trl"] = peak_of(trl_command(model, data, length, out, packed=packed, rows=1))
            if full_batch:
                line["trl_8_rows"] = _if_it_fits(trl_command(model, data, length, out, packed=packed, rows=8))
            found.append(line)
            print("  ".join(f"{key} {_shown(value)}" for key, value in line.items()), flush=True)
    return found


def _if_it_fits(command: list[str]) -> int | None:
    try:
        return peak_of(command)
    except RuntimeError as error:
        print(f"  not measured: {str(error).splitlines()[0]}", file=sys.stderr)
        return None


def slopes(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """KB a token between the first and the last length, by layout and side."""
    result: dict[str, dict[str, float]] = {}
    for layout in dict.fromkeys(line["layout"] for line in found):
        first, *_, last = (line for line in found if line["layout"] == layout)
        tokens = last["length"] - first["length"]
        result[layout] = {side: (last[side] - first[side]) / 1024 / tokens for side in ("alignkit", "trl")}
    return result


def _shown(value: Any) -> str:
    return f"{value / 2**30:.2f} GB" if isinstance(value, int) and value > 2**20 else str(value)


def main() -> None:
    if sys.argv[1:2] == ["--trl"]:
        train_with_trl(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="4096,16384", help="tokens of a row, at least two lengths")
    parser.add_argument("--small", action="store_true", help="short rows, narrow layers: to see that the script works")
    parser.add_argument("--eight", action="store_true", help="also TRL with its default of eight rows a step")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    lengths = [512, 1024] if options.small else sorted(int(one) for one in options.lengths.split(","))
    with tempfile.TemporaryDirectory() as scratch:
        shape = NARROW if options.small else SMOLLM2
        layouts = {"packed": LAYOUTS["packed"]} if options.small else LAYOUTS
        found = measure(Path(scratch), lengths, shape, layouts, full_batch=options.eight)
    by_layout = slopes(found)
    for line in found:
        ratio = line["alignkit"] / line["trl"]
        print(f"{line['length']:>7,} tokens, {line['layout']:<13} alignkit at {ratio:.2f} of TRL's peak")
    for layout, sides in by_layout.items():
        print(f"slope, {layout}: " + ", ".join(f"{side} {value:.1f} KB a token" for side, value in sides.items()))
    if options.json:
        options.json.write_text(json.dumps({"peaks": found, "slopes": by_layout}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
