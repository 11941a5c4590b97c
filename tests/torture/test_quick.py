"""A few trials of every class of faults; `make torture` makes all of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

from tests.torture.__main__ import CLASSES, NEED_SHIM


def test_nothing_is_lost() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.torture", "--quick"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = {line[:32].strip(): line[32:].split() for line in done.stdout.splitlines()}
    for name, (words, *_) in CLASSES.items():
        if name in NEED_SHIM and shutil.which("cc") is None:
            assert lines[words][:2] == ["not", "tried:"]
            continue
        tried, survived, lost = map(int, lines[words][:3])
        assert tried == survived >= 1 and lost == 0


def test_a_loss_is_told_and_counted() -> None:
    """A harness that cannot lose proves nothing: with checkpoints that nobody verifies, damage is lost."""
    code = (
        "import sys; from alignkit.training import checkpoints; checkpoints.damage = lambda one: None; "
        "sys.argv = ['torture', '--quick', '--only', 'damage']; import os; os.environ.setdefault('LD_PRELOAD', ''); "
        "from tests.torture.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr[-2000:]
    [line] = [line for line in done.stdout.splitlines() if line.startswith("a checkpoint")]
    assert int(re.split(r"\s{2,}", line)[3]) > 0
    assert "lost: lora, adapter_model.safetensors, one bit" in done.stderr
