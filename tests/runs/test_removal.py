"""What goes, what stays, and why."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from alignkit.errors import RequestError
from alignkit.runs.directory import RunDirectory
from alignkit.runs.manifest import unpublish
from alignkit.runs.removal import children_of, prune, prune_plan, remove
from tests.runs.making import begin, checkpoint, complete, from_run


def names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir())


def test_a_run_goes_as_a_whole(root: Path) -> None:
    run = complete(root, "a")
    other = complete(root, "b")
    assert remove([run]) > 64
    assert names(root) == [other.name]


def test_a_parent_stays_while_its_child_stands(root: Path) -> None:
    sft = complete(root, "sft")
    dpo = complete(root, "dpo", stage="dpo", parents=[from_run(sft)])
    with pytest.raises(RequestError, match=rf"{sft.name}: .*{dpo.name} \(its model\)"):
        remove([sft])
    assert sft.is_complete
    remove([sft, dpo])
    assert names(root) == []


def test_an_unfinished_child_counts_too(root: Path) -> None:
    sft = complete(root, "sft")
    child = begin(root, "dpo", stage="dpo", parents=[from_run(sft)])
    assert children_of(sft) == [], "it is dead: nothing stands on it"
    with child.lock():
        assert [found.run for found in children_of(sft)] == [child]
    checkpoint(child)
    assert [found.run for found in children_of(sft)] == [child]
    child.fail("out of memory")
    assert [found.run for found in children_of(sft)] == [child], "it failed, and can be resumed"


def test_a_child_whose_manifest_is_taken_back_or_damaged_still_stands(root: Path) -> None:
    sft = complete(root, "sft")
    child = complete(root, "dpo", parents=[from_run(sft)])
    unpublish(child)
    (child.path / "state" / "parents.json").unlink()
    assert [found.run.path for found in children_of(sft)] == [child.path]
    (child.path / "manifest.json").write_text("{")
    assert [found.run.path for found in children_of(sft)] == [child.path]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("  name: runs/{}/model\n", True),
        ("  name: {}/model\n", True),
        ("  models: [../x/{}, other]\n", True),
        ('  name: "/somewhere/{}"\n', True),
        ("  name: runs/{}-2/model\n", False),
        ("  name: runs/my-{}/model\n", False),
        ("# name: runs/{}/model\n", False),
        ("  name: other\n", False),
    ],
)
def test_a_child_is_known_by_its_recipe(root: Path, line: str, named: bool) -> None:
    sft = complete(root, "sft")
    child = checkpoint(begin(root, "dpo"))
    child.write("recipe.yaml", "model:\n" + line.format(sft.name))
    assert bool(children_of(sft)) is named


def test_children_are_known_after_the_root_was_moved(root: Path, tmp_path: Path) -> None:
    sft = complete(root, "sft")
    dpo = complete(root, "dpo", parents=[from_run(sft)])
    root.rename(tmp_path / "moved")
    moved = RunDirectory(path=tmp_path / "moved" / sft.name, key=sft.key, stage="lora", created=0.0)
    assert [found.run.name for found in children_of(moved)] == [dpo.name]


def test_a_running_run_is_not_removed(root: Path) -> None:
    run = complete(root, "a")
    with run.lock(), pytest.raises(RequestError, match=f"in use by process {os.getpid()}"):
        remove([run])
    assert run.is_complete


def test_every_obstacle_is_named_at_once(root: Path) -> None:
    one, two = complete(root, "one"), complete(root, "two")
    complete(root, "child", parents=[from_run(one), from_run(two)])
    with pytest.raises(RequestError) as refusal:
        remove([one, two])
    assert [fault.where for fault in refusal.value.faults] == [one.name, two.name]


def test_prune_takes_old_checkpoints_dead_runs_and_leftovers_only(root: Path) -> None:
    done = checkpoint(complete(root, "done"))
    half = checkpoint(begin(root, "half"))
    dead = begin(root, "dead")
    early = begin(root, "early")
    early.fail("no such file")
    late = checkpoint(begin(root, "late"))
    late.fail("out of memory")
    (root / ".new-lora-x-1").mkdir()
    (root / ".removed-lora-y-1").mkdir()
    stale = root / ".new-lora-z-1"
    stale.mkdir()
    os.utime(stale, (time.time() - 7200,) * 2)
    plan = prune_plan(root)
    assert {item.path for item in plan} == {
        done.checkpoints,
        dead.path,
        early.path,
        stale,
        root / ".removed-lora-y-1",
    }
    assert next(item.size for item in plan if item.path == done.checkpoints) == 1000
    assert prune(plan) == sum(item.size for item in plan)
    assert names(root) == sorted([".new-lora-x-1", done.name, half.name, late.name])
    assert done.is_complete and not done.checkpoints.exists()
    assert prune_plan(root) == []


def test_prune_leaves_what_a_running_process_works_on(root: Path) -> None:
    run = begin(root, "a")
    with run.lock():
        assert prune_plan(root) == []


def test_prune_looks_again_before_it_acts(root: Path) -> None:
    dead, reborn, again = begin(root, "dead"), begin(root, "reborn"), begin(root, "again")
    plan = prune_plan(root)
    assert len(plan) == 3
    checkpoint(reborn)
    shutil.rmtree(again.path)
    with dead.lock():
        assert prune(plan) == 0
    assert names(root) == sorted([dead.name, reborn.name])


def test_checkpoints_that_a_child_was_made_from_stay(root: Path) -> None:
    done = checkpoint(complete(root, "done"))
    child = checkpoint(begin(root, "child"))
    child.write("recipe.yaml", f"model: {{name: {done.checkpoints}/checkpoint-10}}\n")
    assert prune_plan(root) == []
    child.write("recipe.yaml", f"model: {{name: {done.model_path}}}\n")
    assert [item.path for item in prune_plan(root)] == [done.checkpoints]


def test_a_dead_runs_parent_can_go(root: Path) -> None:
    sft = complete(root, "sft")
    begin(root, "dpo", parents=[from_run(sft)])
    remove([sft])
    assert not sft.path.exists()
