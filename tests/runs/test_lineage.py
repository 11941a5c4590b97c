"""From a model back to its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.errors import RequestError
from alignkit.runs.lineage import Node, lineage
from alignkit.runs.manifest import Parent
from tests.runs.making import begin, complete, from_run

HUB = Parent(role="model", name="smollm2", hub="org/smollm2", commit="1234567890abcdef")


def outline(node: Node) -> list[object]:
    return [node.role, node.name, node.note, [outline(parent) for parent in node.parents]]


def test_a_chain_goes_back_to_the_hub(root: Path) -> None:
    sft = complete(root, "sft", stage="sft", parents=[HUB])
    dpo = begin(root, "dpo", stage="dpo", parents=[from_run(sft), Parent(role="data", name="generated:tickets")])
    base = ["model", "org/smollm2", "hub, commit 1234567890ab", []]
    data = ["data", "generated:tickets", "", []]
    expected = ["", dpo.name, "dpo, dead", [["model", sft.name, "sft, complete", [base]], data]]
    assert outline(lineage(dpo.path)) == expected
    assert outline(lineage(sft.model_path)) == ["", sft.name, "sft, complete", [base]]


def test_a_merge_has_two_parents(root: Path) -> None:
    one, two = complete(root, "one"), complete(root, "two")
    merge = complete(
        root, "m", stage="merge", parents=[from_run(one, "merge.models[0]"), from_run(two, "merge.models[1]")]
    )
    assert [node.name for node in lineage(merge.path).parents] == [one.name, two.name]


def test_the_tree_holds_when_the_root_is_moved(root: Path, tmp_path: Path) -> None:
    sft = complete(root, "sft")
    dpo = complete(root, "dpo", stage="dpo", parents=[from_run(sft)])
    root.rename(tmp_path / "moved")
    tree = lineage(tmp_path / "moved" / dpo.name / "model")
    assert [node.note for node in tree.parents] == ["lora, complete"]


def test_what_is_gone_is_said_to_be_gone(root: Path, tmp_path: Path) -> None:
    sft = complete(root, "sft")
    lost = Parent(role="data", name="rows", path=str(tmp_path / "rows.jsonl"))
    dpo = complete(root, "dpo", stage="dpo", parents=[from_run(sft), lost])
    sft.path.rename(tmp_path / "elsewhere")
    notes = [node.note for node in lineage(dpo.path).parents]
    assert notes == [f"run that is gone: {sft.path}", "gone"]


def test_another_run_that_took_the_name_is_not_the_parent(root: Path) -> None:
    sft = complete(root, "sft")
    parent = from_run(sft)
    impostor = Parent(**{**vars(parent), "run_key": "f" * 64})
    dpo = complete(root, "dpo", parents=[impostor])
    assert lineage(dpo.path).parents[0].note.startswith("run that is gone")


def test_plain_directories_and_adapters(root: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert outline(lineage(base)) == ["", str(base), "directory", []]
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = adapter / "adapter_config.json"
    config.write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert outline(lineage(adapter)) == ["", str(adapter), "adapter", [["base", str(base), "directory", []]]]
    config.write_text(json.dumps({"base_model_name_or_path": "org/m"}))
    assert lineage(adapter).parents[0].note == "hub, or gone"
    run = complete(root, "a")
    config.write_text(json.dumps({"base_model_name_or_path": str(run.model_path)}))
    assert lineage(adapter).parents[0].name == run.name
    config.write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    assert lineage(adapter).parents[0].note == "made from itself"


def test_a_circle_of_runs_ends(root: Path) -> None:
    run = begin(root, "a")
    run.record_parents([from_run(run)])
    assert lineage(run.path).parents[0].note == "lora, dead, made from itself"


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="nothing stands there"):
        lineage(tmp_path / "no")
