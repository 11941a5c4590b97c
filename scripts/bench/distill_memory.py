"""Peak memory of the distillation losses above weights and gradients, by the size of the vocabulary.

    python scripts/bench/distill_memory.py [--tokens 1024] [--vocabularies 8000,32000,128000] [--device cpu]

Each figure is one forward and one backward pass of a head over the same number of labelled tokens, in a process of its
own. On a CPU it is the resident memory's high-water mark (Linux: /proc/self/clear_refs resets it; the C library is told
to give back what is freed), so that what kernels take in passing counts too; on a GPU the allocator's. Weights, states,
targets, and the gradients that are left are in memory before or taken off. The last column is the largest over the
smallest figure; "full logits" is the same loss by autograd on whole matrices, for comparison. Losses work in chunks of
fixed bytes: with fewer tokens than fill one chunk of the smallest vocabulary (about 500 for 8,000 entries on a CPU,
4,000 on a GPU) the small ones need less.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HIDDEN, TEACHER_HIDDEN, ENTRIES, SEED = 64, 96, 50, 0
CASES: dict[str, dict[str, Any]] = {
    "live, forward-kl, frozen head": {"form": "live", "kind": "forward-kl"},
    "live, jsd, frozen head": {"form": "live", "kind": "jsd"},
    "live, reverse-kl, trained head": {"form": "live", "kind": "reverse-kl", "trained": True},
    "live, sorted (uld), frozen head": {"form": "live", "kind": "uld"},
    "top 50, forward-kl and ce, frozen head": {"form": "top-k", "kind": "forward-kl", "ce": 0.5},
    "top 50, forward-kl and ce, trained head": {"form": "top-k", "kind": "forward-kl", "ce": 0.5, "trained": True},
    "50 samples, forward-kl, trained head": {"form": "samples", "kind": "forward-kl", "trained": True},
    "full logits, forward-kl, frozen head": {"form": "plain", "kind": "forward-kl"},
}


def reset_peak(device: str) -> None:
    """Start the high-water mark at what is in memory now."""
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def in_memory(device: str, *, peak: bool) -> int:
    """Bytes: now, or the most since ``reset_peak``."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated())
    name = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    if found is None:
        raise SystemExit("resident memory is read from /proc, which this system does not have; use --device cuda")
    return int(found[1]) * 1024


def measure(case: dict[str, Any], vocabulary: int, tokens: int, device: str) -> int:
    """Bytes above weights and gradients of one pass."""
    import torch

    torch.manual_seed(SEED)
    made: dict[str, Any] = {"device": device}
    states = torch.randn(tokens, HIDDEN, **made).requires_grad_()
    weight = torch.nn.Parameter(torch.randn(vocabulary, HIDDEN, **made) / 8, requires_grad=case.get("trained", False))
    labels = torch.randint(0, vocabulary, (tokens,), **made)
    step = passes(case, states, weight, labels)
    # Gradients stand before the pass, as they do from the second micro-batch of a step on.
    states.grad = torch.zeros_like(states)
    few = torch.randn(2, HIDDEN, **made).requires_grad_()
    small = torch.nn.Parameter(weight.detach()[:100].clone(), requires_grad=weight.requires_grad)
    passes(case, few, small, labels[:2] % 100)()  # the first call loads kernels
    reset_peak(device)
    before = in_memory(device, peak=False)
    step()
    after = in_memory(device, peak=True)
    own = weight.grad.numel() * weight.grad.element_size() if weight.grad is not None else 0
    return after - before - own


def passes(case: dict[str, Any], states: Any, weight: Any, labels: Any) -> Callable[[], None]:
    """One forward and backward pass of a case, with its targets made beforehand."""
    import torch

    from alignkit.training.divergences import Objective
    from alignkit.training.divergences_head import distilled_scores
    from alignkit.training.targets import HeadTargets, SampledTargets, Targets, TopKTargets

    tokens, vocabulary, made = len(states), len(weight), {"device": states.device}
    objective = Objective(kind=case["kind"], ce=case.get("ce", 0.0))
    targets: Targets
    if case["form"] in ("live", "plain"):
        teacher = torch.randn(tokens, TEACHER_HIDDEN, **made)
        targets = HeadTargets(teacher, torch.randn(vocabulary, TEACHER_HIDDEN, **made) / 10)
    else:
        first = torch.randint(0, vocabulary, (tokens, 1), **made)
        ids = (first + torch.arange(ENTRIES, **made) * (vocabulary // ENTRIES)) % vocabulary  # no token twice
        shares = torch.rand(tokens, ENTRIES, **made).softmax(-1)
        listed = case["form"] == "top-k"
        targets = TopKTargets(ids, (shares * 0.9).log()) if listed else SampledTargets(ids, shares)

    def ours() -> None:
        distilled_scores(states, weight, None, labels, targets, objective).loss.mean().backward()

    def plain() -> None:
        assert isinstance(targets, HeadTargets)
        mine, theirs = states @ weight.t(), targets.hidden @ targets.weight.t()
        loss = torch.nn.functional.kl_div(
            mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="sum"
        )
        (loss / tokens).backward()

    return plain if case["form"] == "plain" else ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1024, help="labelled tokens of a pass")
    parser.add_argument("--vocabularies", default="8000,32000,128000", help="sizes, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--cases", default="", help="only cases whose name holds this text")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "VOCABULARY"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(CASES[asked.one[0]], int(asked.one[1]), asked.tokens, asked.device)))
        return
    sizes = [int(size) for size in asked.vocabularies.split(",")]
    names = [name for name in CASES if asked.cases in name]
    width = max(map(len, names), default=0)
    print(
        f"{'MB above weights and gradients':{width}}  "
        + "".join(f"{size:>10,}" for size in sizes)
        + "  largest/smallest"
    )
    for name in names:
        figures = []
        for size in sizes:
            words = [sys.executable, __file__, "--tokens", str(asked.tokens), "--device", asked.device]
            # Freed memory that the C library keeps for later would count on one side or the other, by chance.
            done = subprocess.run(
                [*words, "--one", name, str(size)],
                capture_output=True,
                text=True,
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            figures.append(json.loads(done.stdout.splitlines()[-1]) / 1e6)
        ratio = max(figures) / max(min(figures), 1e-6)
        print(f"{name:{width}}  " + "".join(f"{figure:10.1f}" for figure in figures) + f"  {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
