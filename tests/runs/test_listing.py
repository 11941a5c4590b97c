"""How each run stands, and which one a person meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.errors import RequestError
from alignkit.runs.listing import find_run, find_runs, size_of, state_of
from alignkit.runs.manifest import unpublish
from tests.runs.making import begin, checkpoint, complete


def test_the_states_of_a_life(root: Path) -> None:
    run = begin(root, "a")
    assert state_of(run) == "dead"
    run.mark("resolved", {"dtype": "bf16"})
    assert state_of(run) == "dead", "nothing is done yet"
    with run.lock():
        assert state_of(run) == "running"
    run.fail("the disk is full")
    assert state_of(run) == "failed"
    run.clear_mark("failed")
    checkpoint(run)
    assert state_of(run) == "half done"


def test_a_phase_that_is_done_is_progress(root: Path) -> None:
    run = begin(root, "a")
    run.mark("evaluated_before", {"loss": 1.0})
    assert state_of(run) == "half done"


def test_complete_running_and_taken_back(root: Path) -> None:
    run = complete(root, "a")
    assert state_of(run) == "complete"
    with run.lock():
        assert state_of(run) == "running"
    unpublish(run)
    assert state_of(run) == "half done"
    (run.path / "manifest.json").write_text("{")
    assert state_of(run) == "damaged"


def test_only_runs_are_found_newest_first(root: Path) -> None:
    first, second = begin(root, "a"), complete(root, "b")
    (root / "notes").mkdir()
    (root / "file").write_text("")
    (root / ".new-lora-x" / "state").mkdir(parents=True)
    assert [info.path for info in find_runs(root)] == [second.path, first.path]
    assert find_runs(root / "nowhere") == []


def test_a_run_is_meant_by_path_name_or_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = complete(root, "a")
    other = complete(root, "b")
    for said in (str(run.path), str(run.model_path), f"{run.path}/", run.name, run.name[:9]):
        assert find_run(root, said).path == run.path
    monkeypatch.chdir(root)
    assert find_run("elsewhere", run.name).path == run.path
    assert find_run(".", other.name).path == other.path


def test_a_sibling_does_not_hide_the_first(root: Path) -> None:
    run = complete(root, "a")
    begin(root, "a", fresh=True)
    assert find_run(root, run.name).path == run.path


def test_a_start_that_two_have_is_refused_with_both(root: Path) -> None:
    names = sorted([begin(root, "a").name, begin(root, "b").name])
    with pytest.raises(RequestError, match=f"2 runs start like this: {', '.join(names)}"):
        find_run(root, "lora-")
    with pytest.raises(RequestError, match="no such run"):
        find_run(root, "")


def test_a_misspelled_run_gets_the_nearest(root: Path) -> None:
    run = begin(root, "a")
    with pytest.raises(RequestError, match=f"Did you mean {run.name}"):
        find_run(root, run.name.replace("lora", "lroa"))
    with pytest.raises(RequestError, match="this is no run directory"):
        find_run(root, str(root))


def test_size_counts_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to("/etc")
    assert 100 <= size_of(tmp_path) < 200
