"""Only a directory with a manifest is a result, and the manifest tells the truth about it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from alignkit.errors import RunError
from alignkit.runs import manifest as module
from alignkit.runs.manifest import Manifest, Parent, publish, read_manifest, read_previous, unpublish, verify
from tests.runs.making import begin, checkpoint, complete, finish, from_run


def test_what_was_published_reads_back(root: Path) -> None:
    base = complete(root, "base")
    parents = (from_run(base), Parent(role="teacher", name="org/m", hub="org/m", commit="c" * 40, digest="d" * 64))
    run = complete(root, "a", parents=parents, seconds=12.5, reusable=False)
    found = read_manifest(run)
    assert found.parents == parents
    assert found.parents[0].run == str(base.path) and found.parents[0].run_key == base.key
    assert (found.seconds, found.reusable, found.result, found.seed) == (12.5, False, "model", 42)
    assert found.created and found.finished >= found.created


def test_it_names_the_result_and_leaves_out_what_goes_on_changing(root: Path) -> None:
    run = checkpoint(begin(root, "a"))
    run.log_file.write_text("a line\n")
    (run.path / ".recipe.yaml.tmp-1-ab").write_text("half")
    with run.lock():
        finish(run)
    found = read_manifest(run).files
    assert sorted(found) == ["metrics.jsonl", "model/model.safetensors", "recipe.yaml"]
    assert found["recipe.yaml"] == hashlib.sha256(run.recipe_file.read_bytes()).hexdigest()


def test_the_manifest_appears_after_everything_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = begin(root, "a")
    flushed: list[str] = []

    def watch(path: Path) -> None:
        assert not (run.path / "manifest.json").exists()
        flushed.append(path.name)

    monkeypatch.setattr(module, "fsync_file", watch)
    monkeypatch.setattr(module, "fsync_directory", watch)
    finish(run)
    assert set(flushed) == {"recipe.yaml", "metrics.jsonl", "model.safetensors", "model", run.name}


def test_a_run_without_its_result_is_not_published(root: Path) -> None:
    run = begin(root, "a")
    with pytest.raises(RunError, match=r"model is the result of this run, and it was not written"):
        publish(run, Manifest(stage="lora", name="x", key=run.key, semantics=1, seed=0))
    assert not run.is_complete


def test_unpublishing_sets_the_manifest_aside_until_the_next_one(root: Path) -> None:
    run = complete(root, "a")
    unpublish(run)
    unpublish(run)
    assert not run.is_complete
    previous = read_previous(run)
    assert previous is not None and previous.key == run.key
    finish(run)
    assert run.is_complete and read_previous(run) is None
    assert "manifest.previous.json" not in read_manifest(run).files


def test_fields_of_a_later_version_are_passed_over(root: Path) -> None:
    run = complete(root, "a", parents=[Parent(role="model", name="x")])
    path = run.path / "manifest.json"
    record = json.loads(path.read_text())
    record["format"] = "alignkit run 7"
    record["carbon"] = {"kg": 0.1}
    record["parents"][0]["licence"] = "MIT"
    path.write_text(json.dumps(record))
    assert read_manifest(run).parents == (Parent(role="model", name="x"),)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"stage": "lora"}', '{"format": "alignkit run 1"}', "\xff\xfe", '{"format": "other"}'],
)
def test_a_damaged_manifest_is_a_sentence_that_names_the_file(root: Path, text: str) -> None:
    run = complete(root, "a")
    (run.path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(RunError, match=r"manifest\.json is damaged .*--fresh"):
        read_manifest(run)


@pytest.mark.parametrize("name", ["metrics", "parents", "files", "reusable", "key"])
def test_a_field_of_the_wrong_type_is_damage(root: Path, name: str) -> None:
    run = complete(root, "a")
    path = run.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: 3}))
    with pytest.raises(RunError, match=f"damaged.*{name}"):
        read_manifest(run)


def test_a_missing_manifest_is_a_sentence(root: Path) -> None:
    with pytest.raises(RunError, match=r"manifest\.json is missing: this run is not complete"):
        read_manifest(begin(root, "a"))


def test_verify_finds_a_flipped_bit_and_a_missing_file(root: Path) -> None:
    run = complete(root, "a")
    assert verify(run) == []
    weights = run.model_path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[3] ^= 1
    weights.write_bytes(data)
    run.recipe_file.unlink()
    problems = verify(run)
    assert len(problems) == 2
    assert any(p.startswith("model/model.safetensors is not the file") for p in problems)
    assert "recipe.yaml is missing." in problems
