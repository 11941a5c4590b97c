"""Digests are right always, and fast where nothing changed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit.errors import RunError
from alignkit.runs import digests
from alignkit.runs.digests import directory_digest, file_digest, path_digest


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose contents are really read."""
    names: list[str] = []
    really = hashlib.file_digest

    def watched(file: object, name: str) -> object:
        names.append(Path(getattr(file, "name", "?")).name)
        return really(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", watched)
    return names


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been left alone for long enough."""
    monkeypatch.setattr(digests, "SETTLED_SECONDS", 0.0)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    return path


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(weights: Path, readings: list[str]) -> None:
    assert file_digest(weights) == file_digest(weights) == sha(b"one")
    assert readings == ["weights.bin"]


@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_read_again_even_with_size_and_mtime_put_back(weights: Path, readings: list[str]) -> None:
    file_digest(weights)
    before = weights.stat()
    weights.write_bytes(b"two")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digest(weights) == sha(b"two")
    assert len(readings) == 2


@pytest.mark.usefixtures("settled")
def test_a_file_that_took_the_place_of_another_is_read(weights: Path, tmp_path: Path) -> None:
    file_digest(weights)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    os.utime(other, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns))
    other.replace(weights)
    assert file_digest(weights) == sha(b"two")


def test_a_file_that_just_changed_is_not_remembered(weights: Path, readings: list[str]) -> None:
    old = time.time() - 1000
    os.utime(weights, (old, old))  # the mtime may say what it likes: the change was just now
    file_digest(weights)
    file_digest(weights)
    assert len(readings) == 2


@pytest.mark.usefixtures("settled")
def test_a_check_of_the_bits_reads_them(weights: Path, readings: list[str]) -> None:
    file_digest(weights)
    file_digest(weights, cached=False)
    assert len(readings) == 2


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["", "{", "[]", '{"sha256": 3}', "\x00\xff", "{}"])
def test_a_damaged_entry_is_passed_over(weights: Path, cache_home: Path, damage: str) -> None:
    file_digest(weights)
    (entry,) = cache_home.rglob("*.json")
    entry.write_text(damage)
    assert file_digest(weights) == sha(b"one")
    assert entry.read_text() != damage, "it is replaced by a whole one"


@pytest.mark.usefixtures("settled")
def test_an_entry_with_a_false_digest_text_is_passed_over(weights: Path, cache_home: Path) -> None:
    file_digest(weights)
    (entry,) = cache_home.rglob("*.json")
    entry.write_text(entry.read_text().replace(sha(b"one"), "abc"))
    assert file_digest(weights) == sha(b"one")


@pytest.mark.usefixtures("settled")
def test_without_a_cache_directory_digests_still_work(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("a file where the directory would be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert file_digest(weights) == sha(b"one")


@pytest.mark.usefixtures("settled")
def test_processes_share_the_cache(weights: Path, cache_home: Path) -> None:
    code = (
        "import sys; from alignkit.runs import digests; digests.SETTLED_SECONDS = 0.0\n"
        "for _ in range(50): print(digests.file_digest(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(weights)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [process.communicate()[0].split() for process in processes]
    assert [set(answer) for answer in answers] == [{sha(b"one")}] * 3
    assert len(list(cache_home.rglob("*.json"))) == 1
    assert not [left for left in cache_home.rglob("*") if ".tmp-" in left.name]


def test_a_file_that_changes_while_it_is_read_has_no_digest(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = hashlib.file_digest

    def slow(file: object, name: str) -> object:
        found = really(file, name)  # type: ignore[arg-type]
        weights.write_bytes(b"longer than before")
        return found

    monkeypatch.setattr(hashlib, "file_digest", slow)
    with pytest.raises(RunError, match="changed while it was being read"):
        file_digest(weights)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing\.bin could not be read: No such file"):
        file_digest(tmp_path / "nothing.bin")


def test_a_directory_is_its_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "m" / "sub").mkdir(parents=True)
    (tmp_path / "m" / "a").write_bytes(b"1")
    (tmp_path / "m" / "sub" / "b").write_bytes(b"2")
    whole = path_digest(tmp_path / "m")
    assert whole == directory_digest(tmp_path / "m") == directory_digest(tmp_path / "m", files=["sub/b", "a"])
    assert directory_digest(tmp_path / "m", ["a"]) != whole
    (tmp_path / "m" / "a").rename(tmp_path / "m" / "c")
    assert path_digest(tmp_path / "m") != whole


def test_a_link_counts_as_what_it_points_to(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "link").symlink_to(weights)
    assert file_digest(tmp_path / "link") == sha(b"one")
