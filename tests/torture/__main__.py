"""`python -m tests.torture`: runs are disturbed in every way that machines know, and have to come to the same end.

One line a class: tried, survived, lost. The exit code is 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.torture import child, classes, conditions
from tests.torture.classes import EVERYTHING, Ground, Trial
from tests.torture.families import TRAINED, prepare

FEW = ["lora"]
CLASSES: dict[str, tuple[str, Callable[[Ground, list[str]], Iterator[Trial]], list[str], list[str]]] = {
    "save": ("SIGKILL in a save", classes.killed_in_a_save, ["sft", "lora, dropout", "dpo", "rlhf"], FEW),
    "kill": ("SIGKILL at a random moment", classes.killed_at_random, EVERYTHING, ["lora, dropout", "merge"]),
    "damage": ("a checkpoint's file damaged", classes.damaged_files, ["sft", "lora", "dpo", "reward", "rlhf"], FEW),
    "disk": ("disk full", classes.full_disk, ["sft", "lora"], FEW),
    "signal": ("SIGTERM, SIGINT, SIGHUP", classes.signals, list(TRAINED), FEW),
    "nan": ("a loss that is no number", conditions.nan, ["sft", "lora", "dpo", "reward"], FEW),
    "two": ("two processes, one directory", conditions.two_at_once, ["sft", "lora", "dpo"], FEW),
    "clock": ("a clock that jumps", conditions.clock, ["sft", "lora", "dpo", "rlhf"], FEW),
    "read-only": ("a read-only directory", conditions.read_only, ["sft"], FEW),
    "parent": ("a parent that is deleted", conditions.parent_deleted, ["sft", "lora", "dpo"], FEW),
}
"""Name to the line's words, the trials, the families of `make torture`, and those of a quick look."""
NEED_SHIM = ("save", "disk")


def main() -> int:
    """The exit code."""
    asked = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    asked.add_argument("--quick", action="store_true", help="a few trials of each class, in about a minute")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--only", nargs="*", choices=CLASSES, default=list(CLASSES))
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        here = Path(place)
        here.chmod(0o755)
        if "LD_PRELOAD" not in os.environ and (library := child.compile_shim(here)) is not None:
            os.environ["LD_PRELOAD"] = str(library)
            code = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-m", "tests.torture", *sys.argv[1:]])
            return code
        os.environ |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(here / "cache"), "HF_HUB_OFFLINE": "1"}
        child.warm()
        made = child.wait(*child.spawn(lambda: prepare(here)))
        assert made.code == 0, made.said
        ground = Ground(here, options.seed, many=not options.quick)
        lost = 0
        print(f"{'fault':32}  tried  survived  lost  minutes", flush=True)
        for name in options.only:
            words, trials, families, few = CLASSES[name]
            if name in NEED_SHIM and "LD_PRELOAD" not in os.environ:
                print(f"{words:32}  not tried: it needs a C compiler", flush=True)
                continue
            lost += _line(words, trials(ground, few if options.quick else families))
        return 1 if lost else 0


def _line(words: str, trials: Iterator[Trial]) -> int:
    began, tried, lost = time.monotonic(), 0, 0
    for what, reason in trials:
        tried += 1
        if reason is not None:
            lost += 1
            print(f"  lost: {what}: {reason}", file=sys.stderr, flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{words:32}  {tried:5}  {tried - lost:8}  {lost:4}  {minutes:7.1f}", flush=True)
    return lost


if __name__ == "__main__":
    sys.exit(main())
