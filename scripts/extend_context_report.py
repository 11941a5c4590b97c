"""What scripts/extend_context.sh found, as tables; exit code 1 where one of its claims does not hold.

    python scripts/extend_context_report.py RESULTS

Each line of RESULTS names a run: how it was made, the stretch, the method, and the path of its model.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

WINDOW = 256
"""Bytes that the model reads before."""
ALLOWED = 1.02
"""How much short perplexity may rise, and perplexity from one length to the next within the window."""
SAME = 1e-4
"""Relative difference of two perplexities that only rounding made."""
PASSKEY = 0.95
SOONER = 0.4
"""Share of linear interpolation's steps after which YaRN should be as good."""
NEEDED = [("untrained", times, method) for times in (4, 8) for method in ("linear", "ntk", "dynamic", "yarn")] + [
    ("trained", 4, "yarn"),
    ("trained", 4, "linear"),
    ("trained", 8, "yarn"),
]


class Run:
    """One line of the results."""

    def __init__(self, line: str) -> None:
        self.kind, times, self.method, place = line.split(maxsplit=3)
        self.times = int(times)
        self.folder = Path(place).parent
        self.metrics: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))[
            "metrics"
        ]

    def perplexity(self, when: str) -> dict[int, float]:
        """By length in bytes."""
        return {one["length"]: one["perplexity"] for one in self.metrics[when]["perplexity"]}

    def passkeys(self) -> dict[float, float]:
        """The share that is found, by depth, over all lengths up to the new window."""
        counts: dict[float, tuple[float, int]] = {}
        for cell in self.metrics["after"]["passkey"]:
            if cell["length"] <= self.times * WINDOW:
                found, asked = counts.get(cell["depth"], (0, 0))
                counts[cell["depth"]] = found + cell["found"], asked + cell["asked"]
        return {depth: found / asked for depth, (found, asked) in counts.items()}

    def losses(self) -> list[tuple[int, float]]:
        """(step, held-out loss) while it was trained."""
        lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [(one["step"], one["held_out_loss"]) for one in map(json.loads, lines) if "held_out_loss" in one]


def line(name: str, curve: dict[int, float]) -> str:
    return f"{name:<26}" + "".join(f"{value:>9.3f}" for value in curve.values())


def untrained(runs: list[Run]) -> list[str]:
    """Perplexity by length of every method, the best at the new window first; and which claims do not hold.

    They are what the papers found on large models: methods that leave fast dimensions alone are better at the new
    window than positions that were never seen, and better than linear interpolation both there and within the old
    window; dynamic NTK costs nothing within the old window.
    """
    wrong = []
    for times in sorted({run.times for run in runs}):
        own = [run for run in runs if run.times == times]
        print(f"\nstretched {times} times, untrained: perplexity by length in bytes")
        before = own[0].perplexity("before")
        print(f"{'':<26}" + "".join(f"{length:>9,}" for length in before))
        print(line("as it was", before))
        for run in sorted(own, key=lambda run: run.perplexity("after")[times * WINDOW]):
            print(line(run.method, run.perplexity("after")))
        target = times * WINDOW
        at = {run.method: run.perplexity("after") for run in own}
        wrong += [
            f"{method}, {times} times, untrained: no better at {target:,} bytes than no stretching"
            for method, curve in at.items()
            if method != "linear" and not curve[target] < before[target]
        ]
        for method in sorted(at.keys() - {"linear"}):
            for length in (target, WINDOW):
                if not at[method][length] < at["linear"][length]:
                    wrong.append(f"{method}, {times} times, untrained: worse than linear at {length:,} bytes")
        if abs(at["dynamic"][WINDOW] / before[WINDOW] - 1) > SAME:
            wrong.append(f"dynamic, {times} times, untrained: changes what is read within {WINDOW} bytes")
    return wrong


def trained(run: Run) -> list[str]:
    """The curve, the passkeys, and which claims do not hold."""
    target = run.times * WINDOW
    before, after = run.perplexity("before"), run.perplexity("after")
    print(f"\nstretched {run.times} times by {run.method}, {run.metrics['training']['steps']} steps")
    print(f"{'':<26}" + "".join(f"{length:>9,}" for length in after))
    print(line("perplexity before", before))
    print(line("perplexity after", after))
    keys = run.passkeys()
    print(f"{'passkeys found':<26}" + "".join(f"{share:>9.0%}" for share in keys.values()))
    print(f"{'  at a depth of':<26}" + "".join(f"{depth:>9.0%}" for depth in keys))
    inside = [length for length in after if length <= target]
    wrong = []
    for shorter, longer in pairwise(inside):
        if after[longer] > ALLOWED * after[shorter]:
            wrong.append(f"perplexity rises from {shorter:,} to {longer:,} bytes")
    if after[WINDOW] > ALLOWED * before[WINDOW]:
        wrong.append(f"perplexity at {WINDOW} bytes rose from {before[WINDOW]:.3f} to {after[WINDOW]:.3f}")
    if not keys or min(keys.values()) < PASSKEY:
        wrong.append(f"passkeys are found less often than {PASSKEY:.0%} at some depth")
    return [f"{run.method}, {run.times} times: {sentence}" for sentence in wrong]


def race(yarn: Run, linear: Run) -> list[str]:
    """Steps of YaRN to the loss that linear interpolation ends with; and what is wrong with that."""
    steps, goal = linear.losses()[-1]
    reached = next((step for step, loss in yarn.losses() if loss <= goal), None)
    if reached is None:
        print(f"\nYaRN does not reach the loss of linear interpolation ({goal:.4f} after {steps} steps)")
    else:
        print(f"\nYaRN has the loss of {steps} linear steps ({goal:.4f}) after {reached}: {reached / steps:.0%}")
    if reached is not None and reached <= SOONER * steps:
        return []
    return [f"yarn, {yarn.times} times: not within {SOONER:.0%} of linear's steps at linear's loss"]


def main() -> None:
    runs = [Run(one) for one in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    named = {(run.kind, run.times, run.method): run for run in runs}
    missing = [" ".join(map(str, one)) for one in NEEDED if one not in named]
    if missing:
        sys.exit(f"{sys.argv[1]} lacks {', '.join(missing)}")
    wrong = untrained([run for run in runs if run.kind == "untrained"])
    for times in (4, 8):
        wrong += trained(named["trained", times, "yarn"])
    wrong += race(named["trained", 4, "yarn"], named["trained", 4, "linear"])
    print("\n" + ("all claims hold" if not wrong else "NOT so:\n  " + "\n  ".join(wrong)))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
