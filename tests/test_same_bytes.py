"""Same seed, same bytes: the same commands in another process, below another root, make the same files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.torture.families import MERGED, TRAINED, prepare

FAMILIES = [*TRAINED, *MERGED]
RUNS = """
import sys
from pathlib import Path
from alignkit import journey
from tests.torture.families import request
here, root = map(Path, sys.argv[1:3])
for family in sys.argv[3:]:
    journey.train(*request(family, here, root / family))
"""


def files(root: Path) -> dict[str, str]:
    """SHA-256 of every file of every result."""
    return {
        f"{family}/{file.relative_to(model)}": hashlib.sha256(file.read_bytes()).hexdigest()
        for family in FAMILIES
        for model in (root / family).glob("*/model")
        for file in sorted(model.rglob("*"))
        if file.is_file()
    }


def test_two_processes_make_the_same_files(tmp_path: Path) -> None:
    prepare(tmp_path)
    roots = [tmp_path / "one", tmp_path / "other"]
    # Each with a cache of its own: what is kept for other runs must not be why they agree.
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", RUNS, str(tmp_path), str(root), *FAMILIES],
            env={**os.environ, "XDG_CACHE_HOME": str(root / "cache"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for root in roots
    ]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said[0][-3000:]
    one, other = map(files, roots)
    assert {name.partition("/")[0] for name in one} == set(FAMILIES)
    assert {name for name in one if one[name] != other.get(name)} == set()
    assert one.keys() == other.keys()
