"""Freed tensors leave the process once large blocks are mapped by themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys, torch
from alignkit.training.allocator import return_large_blocks
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
if sys.argv[1] == "yes":
    assert return_large_blocks()
torch.empty(20 * 2**20, dtype=torch.uint8).fill_(1)  # raises glibc's threshold when it is freed
before = resident()
held = []
for number in range(40):
    kept = torch.empty(64 * 2**10, dtype=torch.uint8).fill_(1)
    large = torch.empty(8 * 2**20, dtype=torch.uint8).fill_(1)
    held.append((kept, large))
small = [kept for kept, _ in held]  # stays between the holes
held.clear()
del large
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_holes_go_back_to_the_system() -> None:
    def left(how: str) -> float:
        done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert left("yes") < 32
    assert left("no") > 100  # otherwise the C library has changed, and the module is not needed
