"""A file is its old self or its new self, never half of either."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from alignkit.errors import RunError
from alignkit.runs import atomic
from alignkit.runs.plain import plain


def test_contents_are_durable_before_the_name_and_the_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        happened.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "contents")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        happened.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    atomic.write_text(tmp_path / "a.txt", "new")
    assert happened == ["contents", "rename", "directory"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"a\.txt could not be written: No space left"):
        atomic.write_text(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_json_is_valid_json_whatever_the_numbers(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"nan": math.nan, "inf": [math.inf, 1.5], "np": np.float32(0.5)})
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert atomic.read_json(tmp_path / "a.json") == {"nan": None, "inf": [None, 1.5], "np": 0.5}


def test_names_that_are_no_utf8_and_names_in_other_scripts_read_back(tmp_path: Path) -> None:
    names = {"path": os.fsdecode(b"/data/\xff.jsonl"), "other": "данные/数据"}
    atomic.write_json(tmp_path / "a.json", names)
    assert atomic.read_json(tmp_path / "a.json") == names
    assert "数据" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_a_missing_or_damaged_file_reads_as_none(tmp_path: Path) -> None:
    assert atomic.read_json(tmp_path / "none.json") is None
    (tmp_path / "half.json").write_text('{"a": ')
    assert atomic.read_json(tmp_path / "half.json") is None


def test_plain_takes_paths_arrays_sets_and_tuples() -> None:
    values = {"p": Path("a/b"), "t": (1, 2), "s": {"y", "x"}, "a": np.arange(3), "b": np.bool_(True), 3: None}
    assert plain(values) == {"p": "a/b", "t": [1, 2], "s": ["x", "y"], "a": [0, 1, 2], "b": True, "3": None}
    assert plain(np.float64("nan")) is None
