"""Asking again finds what stands, resumes what was cut off, and overwrites nothing."""

from __future__ import annotations

import json
import math
import multiprocessing
from pathlib import Path

import pytest

from alignkit.errors import RunError
from alignkit.runs.directory import enclosing_run, load_run, open_run
from tests.runs.making import begin, checkpoint, complete, finish, key_of

KEY = key_of("a")


def test_a_new_run_is_named_by_stage_and_key(root: Path) -> None:
    run = open_run(root, "extend-context", KEY)
    assert run.name == f"extend-context-{KEY[:8]}"
    assert run.path.is_absolute()
    assert not run.is_complete
    assert load_run(run) == run


def test_asking_again_gives_the_same_directory_half_done_or_complete(root: Path) -> None:
    run = checkpoint(begin(root, "a"))
    assert open_run(root, "lora", KEY) == run
    finish(run)
    again = open_run(root, "lora", KEY)
    assert again == run and again.is_complete


def test_fresh_makes_siblings_and_the_newest_decides(root: Path) -> None:
    first = complete(root, "a")
    second = open_run(root, "lora", KEY, fresh=True)
    assert second.name == f"{first.name}-2" and not second.is_complete
    assert open_run(root, "lora", KEY) == second, "an interrupted --fresh goes on without --fresh"
    finish(second)
    third = open_run(root, "lora", KEY, fresh=True)
    assert third.name == f"{first.name}-3"
    assert first.is_complete and second.is_complete


def test_ten_siblings_are_in_the_order_of_their_numbers(root: Path) -> None:
    runs = [open_run(root, "lora", KEY, fresh=True) for _ in range(11)]
    assert open_run(root, "lora", KEY) == runs[-1]
    assert runs[-1].name.endswith("-11")


def test_a_run_that_cannot_be_reused_is_resumed_but_never_returned_as_complete(root: Path) -> None:
    run = checkpoint(begin(root, "a"))
    assert open_run(root, "lora", KEY) == run
    finish(run, reusable=False)
    again = open_run(root, "lora", KEY)
    assert again.name == f"{run.name}-2" and not again.is_complete
    assert open_run(root, "lora", KEY) == again


def test_another_key_with_the_same_digits_gets_a_longer_name(root: Path) -> None:
    other = KEY[:8] + "0" * 56
    run = open_run(root, "lora", KEY)
    collision = open_run(root, "lora", other)
    assert collision.name == f"lora-{other[:12]}"
    assert open_run(root, "lora", other) == collision
    assert open_run(root, "lora", KEY) == run
    assert open_run(root, "lora", other, fresh=True).name == f"lora-{other[:12]}-2"


def test_a_stranger_of_the_same_name_is_left_alone(root: Path) -> None:
    root.mkdir()
    (root / f"lora-{KEY[:8]}").write_text("mine")
    run = open_run(root, "lora", KEY)
    assert run.name == f"lora-{KEY[:8]}-2"
    assert (root / f"lora-{KEY[:8]}").read_text() == "mine"


def _open(root: Path) -> str:
    return open_run(root, "lora", KEY).name


def _open_fresh(root: Path) -> str:
    return open_run(root, "lora", KEY, fresh=True).name


def test_processes_that_ask_at_once_get_one_directory_or_each_their_own(root: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert len(set(pool.map(_open, [root] * 12))) == 1
        assert len(set(pool.map(_open_fresh, [root] * 12))) == 12
    assert not [entry for entry in root.iterdir() if entry.name.startswith(".")]


def test_a_root_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match=r"No run directory could be made in .*runs"):
        open_run(tmp_path / "runs", "lora", KEY)


def test_marks_say_what_is_done_and_survive_damage(root: Path) -> None:
    run = begin(root, "a")
    assert run.read_mark("trained") is None
    run.mark("trained", {"loss": math.nan, "steps": 7})
    assert run.read_mark("trained") == {"loss": None, "steps": 7}
    run.clear_mark("trained")
    run.clear_mark("trained")
    assert run.read_mark("trained") is None
    (run.path / "state" / "saved.json").write_text("{")
    assert run.read_mark("saved") is None


def test_metrics_are_cut_back_to_the_step_that_is_resumed(root: Path) -> None:
    run = begin(root, "a")
    run.append_metrics({"phase": "before", "loss": 3.0})
    for step in (1, 2, 3, 4):
        run.append_metrics({"step": step, "loss": math.inf if step == 3 else 1.0 / step})
    run.truncate_metrics(after_step=3)
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line.get("step") for line in lines] == [None, 1, 2, 3]
    assert lines[-1]["loss"] is None
    run.truncate_metrics(after_step=0)
    assert run.read_metrics() == [{"phase": "before", "loss": 3.0}]


def test_half_a_line_swallows_nothing(root: Path) -> None:
    run = begin(root, "a")
    run.append_metrics({"step": 1})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2, "lo')
    run.append_metrics({"step": 2, "loss": 1.0})
    assert run.read_metrics() == [{"step": 1}, {"step": 2, "loss": 1.0}]
    run.truncate_metrics(after_step=5)
    assert run.metrics_file.read_text() == '{"step": 1}\n{"step": 2, "loss": 1.0}\n'


def test_a_path_in_a_run_leads_to_the_run(root: Path, tmp_path: Path) -> None:
    run = complete(root, "a")
    assert enclosing_run(run.model_path) == run
    assert enclosing_run(run.model_path / "model.safetensors") == run
    assert enclosing_run(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"name": "somebody else\'s"}')
    assert enclosing_run(tmp_path) is None


def test_a_result_whose_state_was_cleaned_away_is_still_found(root: Path) -> None:
    run = complete(root, "a")
    (run.path / "state" / "identity.json").unlink()
    found = open_run(root, "lora", KEY)
    assert found.path == run.path and found.is_complete


def test_a_complete_run_whose_model_is_gone_is_not_handed_out(root: Path) -> None:
    run = complete(root, "a")
    (run.model_path / "model.safetensors").unlink()
    run.model_path.rmdir()
    with pytest.raises(RunError, match="is the result of a complete run, and it is gone"):
        open_run(root, "lora", KEY)
    assert open_run(root, "lora", KEY, fresh=True).name.endswith("-2")
