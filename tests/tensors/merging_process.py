"""A merge in a process of its own, to be killed or measured: python merging_process.py HOW SOURCE TARGET.

Prints one JSON object: the digests, the peak memory in bytes, and how many tensors were there at the start.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from alignkit.tensors.checkpoint import Checkpoint
from alignkit.tensors.engine import Job, run
from alignkit.tensors.jobs import Values
from alignkit.tensors.layout import TensorSpec
from alignkit.tensors.output import Output


class Slow:
    """Adds one, and takes its time."""

    scans = 0
    rows = False

    def scan(self, number: int, start: int, chunks: list[Values], base: Values | None) -> Any:
        raise NotImplementedError

    def gather(self, number: int, parts: list[Any]) -> None:
        raise NotImplementedError

    def combine(self, start: int, chunks: list[Values], base: Values | None) -> Values:
        time.sleep(0.002)
        return chunks[0] + np.float32(1)


class Large:
    """Two passes whose parts are half a megabyte each, as histograms are."""

    scans = 1
    rows = False

    def __init__(self) -> None:
        self.most = np.float32(0)

    def scan(self, number: int, start: int, chunks: list[Values], base: Values | None) -> Any:
        counts = np.bincount(chunks[0].view(np.uint32)[::64] >> 16, minlength=1 << 16)
        return counts + start  # every page of it is touched

    def fold(self, number: int, total: Any, part: Any) -> Any:
        total += part
        return total

    def gather(self, number: int, parts: list[Any]) -> None:
        self.most = np.float32(parts[0].argmax())

    def combine(self, start: int, chunks: list[Values], base: Values | None) -> Values:
        chunks[0] += chunks[1]
        chunks[0] += self.most
        return chunks[0]


def main(how: str, source: str, target: str) -> None:
    parent = Checkpoint.open(source)
    slow = how == "slow"
    jobs = [
        Job(name, info.shape, info.dtype, ((parent, name),) * (1 if slow else 2), None, Slow if slow else Large)
        for name, info in parent.tensors.items()
    ]
    options: dict[str, Any] = {"threads": 2, "chunk": 100} if slow else {"threads": 2}
    specs = [TensorSpec(job.name, job.shape, job.dtype) for job in jobs]
    with Output(target, specs, shard_bytes=5000 if slow else 10**10) as output:
        before = len(output.done)
        run(jobs, output, **options)
        digests = output.finish()
    print(json.dumps({"digests": digests, "peak": peak(), "before": before}))


def peak() -> int:
    """Bytes. Not from getrusage, whose figure of a child begins with that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
