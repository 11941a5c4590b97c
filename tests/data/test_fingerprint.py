"""The digest of a data set changes with its contents and with nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from alignkit.config.sections import Data
from alignkit.data.fingerprint import content_digest
from alignkit.errors import RequestError


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(**section) -> str:
    return content_digest(Data(**section), file_digest)


def test_files_are_known_by_their_bytes(tmp_path):
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('{"text": "a"}')
    second.write_text('{"text": "a"}')
    before = digest(name=str(first))
    assert before == digest(name=str(second))
    assert before != digest(name=str(first), holdout_name=str(second))
    second.write_text('{"text": "b"}')
    assert before != digest(name=str(second))
    assert before != digest(name=f"{tmp_path}/")


def test_the_same_bytes_read_as_another_kind_are_other_rows(tmp_path):
    (tmp_path / "a.csv").write_text("text\na")
    (tmp_path / "a.txt").write_text("text\na")
    assert digest(name=str(tmp_path / "a.csv")) != digest(name=str(tmp_path / "a.txt"))


def test_a_generator_is_known_by_its_code():
    folder = Path(__file__).parents[2] / "alignkit" / "data" / "tickets"
    seen = []
    before = content_digest(Data(name="generated:tickets", rows=5), lambda path: seen.append(path) or file_digest(path))
    assert {path.name for path in seen} == {path.name for path in folder.glob("*.py")}
    assert before != content_digest(Data(name="generated:tickets", rows=5), lambda path: "other")


def test_hub_data_is_known_by_its_commit(monkeypatch, tmp_path):
    import huggingface_hub

    class Api:
        sha = "1" * 40

        def dataset_info(self, name, revision=None):
            assert (name, revision) == ("owner/name", "v1")
            return self

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    first = digest(name="owner/name", revision="v1")
    monkeypatch.setattr(Api, "sha", "2" * 40)
    assert digest(name="owner/name", revision="v1") != first
    assert digest(name="owner/name", revision="1" * 40) == first  # a commit needs no network


def test_hub_data_without_a_network_is_known_from_the_cache(monkeypatch, tmp_path):
    import huggingface_hub

    class Api:
        def dataset_info(self, name, revision=None):
            raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match="cannot be reached, and is not in the local cache"):
        digest(name="owner/name")
    ref = tmp_path / "datasets--owner--name" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text("3" * 40)
    assert digest(name="owner/name") == digest(name="owner/name", revision="3" * 40)
