"""Runs: a folder of one from elsewhere, what a run may reach, and what it may write down."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit.runs.digests import file_digest
from alignkit.training.checkpoints import seal
from tests.hostile.attack import SECRET, Ground, Told, command
from tests.hostile.watching import watching

RESUMED = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "adapter_model.bin")


def words(ground: Ground, *more: str) -> list[str]:
    return ["train", "recipe=lora", *ground.sound(), "schedule.max_steps=2", "checkpoint.every=1", *more]


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, warm: None) -> Ground:
    """A run that stands at its first step of two, as a kill leaves it."""
    from tests.tiny import write_chats

    base = tmp_path_factory.mktemp("cut")
    for name in ("here", "outside"):
        (base / name).mkdir()
    ground = Ground(base / "here", base / "outside", tiny_llama, write_chats(base / "rows.jsonl", 12))
    told = command(words(ground), ground.here)
    assert told.code == 0, told.err
    [run] = (ground.here / "runs").glob("lora-*")
    (run / "manifest.json").unlink()
    shutil.rmtree(run / "model")
    for mark in ("trained", "saved"):
        (run / "state" / f"{mark}.json").unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoints" / "checkpoint-2")
    return ground


def _sealed(digests: dict[str, str]) -> str:
    """The list of digests as whoever knows this program would write it."""
    digests.pop("digests.json", None)
    return json.dumps({**digests, "digests.json": seal(digests)})


@pytest.mark.parametrize("name", RESUMED)
def test_a_pickle_in_a_run_folder_is_not_run(cut_off: Ground, tmp_path: Path, name: str) -> None:
    """Whoever sends a run's folder writes its digests too: nothing but tensors may come out of a checkpoint."""
    runs = cut_off.here / "runs"
    kept = tmp_path / "kept"
    shutil.copytree(runs, kept)
    try:
        [checkpoint] = runs.glob("lora-*/checkpoints/checkpoint-1")
        (checkpoint / name).write_bytes(cut_off.pickle())
        digests = json.loads((checkpoint / "digests.json").read_text(encoding="utf-8"))
        digests[name] = file_digest(checkpoint / name, cached=False)
        (checkpoint / "digests.json").write_text(_sealed(digests), encoding="utf-8")
        with watching(cut_off.here, cut_off.outside) as watch:
            told = command(words(cut_off), cut_off.here)
    finally:
        shutil.rmtree(runs)
        shutil.copytree(kept, runs)
    assert not cut_off.canary.exists()
    assert not watch.seen, watch.seen
    assert "did not expect" not in told.err, told.err
    if name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert told.code == 1, told.err
        assert "checkpoint-1" in told.err and "--fresh" in told.err, told.err
    else:  # nothing reads these
        assert told.code == 0, told.err
        assert "resuming from step 1" in told.err


def test_digests_that_lead_out_of_a_checkpoint_are_not_followed(cut_off: Ground, tmp_path: Path) -> None:
    runs = cut_off.here / "runs"
    kept = tmp_path / "kept"
    shutil.copytree(runs, kept)
    cut_off.secret.write_text(SECRET, encoding="utf-8")
    try:
        [checkpoint] = runs.glob("lora-*/checkpoints/checkpoint-1")
        digests = json.loads((checkpoint / "digests.json").read_text(encoding="utf-8"))
        sealed = _sealed({**digests, str(cut_off.secret): "0"})
        (checkpoint / "digests.json").write_text(sealed, encoding="utf-8")
        with watching(cut_off.here, cut_off.outside) as watch:
            told = command(words(cut_off), cut_off.here)
    finally:
        shutil.rmtree(runs)
        shutil.copytree(kept, runs)
    assert not watch.seen, watch.seen
    assert "checkpoint-1 is damaged" in told.err
    assert told.code == 0, told.err


def test_a_default_run_opens_no_socket(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, evaluate and merge local files with AF_INET and AF_INET6 blocked: nothing asks for either."""
    asked: list[str] = []
    real = socket.socket

    class Blocked(real):  # type: ignore[misc,valid-type]
        def __init__(self, family: int = -1, *rest: Any, **more: Any) -> None:
            if family in (socket.AF_INET, socket.AF_INET6, -1) and more.get("fileno") is None:
                asked.append(str(family))
                raise OSError("no network here")
            super().__init__(family, *rest, **more)

    def unknown(*arguments: Any, **more: Any) -> Any:
        asked.append(str(arguments[:1]))
        raise socket.gaierror("no network here")

    monkeypatch.setattr(socket, "socket", Blocked)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with watching(ground.here, ground.outside) as watch:
        first = command(
            ["train", "recipe=lora", *ground.sound(), "evaluation.rows=2", "evaluation.samples=1"], ground.here
        )
        assert first.code == 0, first.err
        path = first.out.strip()
        scored = command(["eval", path, f"data={ground.rows}"], ground.here)
        assert scored.code == 0, scored.err
        models = f"merge.models=[{path},{ground.model}]"
        merged = command(["train", "recipe=merge", models, "merge.method=linear", "run.root=runs"], ground.here)
        assert merged.code == 0, merged.err
    assert not asked
    assert not [event for event in watch.seen if not event.startswith(("open", "inotify"))], watch.seen


TOKENS = {
    name: f"{SECRET}-{number}"
    for number, name in enumerate(
        (
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "WANDB_API_KEY",
            "OPENAI_API_KEY",
            "ANTHROPIC_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GITHUB_TOKEN",
            "MY_OWN_TOKEN",
            "ALIGNKIT_SERVER_KEY",
            "DATABASE_URL",
        )
    )
}


def _lines(told: Told) -> str:
    return f"{told.code}\n{told.err[-1500:]}"


def _good(ground: Ground) -> list[list[str]]:
    return [
        ["train", "recipe=lora", *ground.sound(), "evaluation.rows=2", "evaluation.samples=1", "checkpoint.every=1"]
    ]


def _broken_run(ground: Ground) -> list[list[str]]:
    """A run that ends in an error while it trains."""
    return [["train", "recipe=lora", *ground.sound(), "optimizer.learning_rate=1e30", "schedule.max_steps=8"]]


def _urls(ground: Ground) -> list[list[str]]:
    """Secrets in the names of things, all of which are refused or kept out of what is written."""
    name = f"https://user:{SECRET}@203.0.113.1"
    return [
        ["train", "recipe=lora", f"model={name}/m", f"data={ground.rows}", "run.root=runs"],
        ["train", "recipe=lora", f"model={ground.model}", f"data={name}/d.jsonl?token={SECRET}", "run.root=runs"],
        ["train", "recipe=lora", *ground.sound(), f"model.revision=https://x:{SECRET}@203.0.113.1/"],
        ["train", "recipe=teacher-cache", f"teacher={ground.model}", f"data={ground.rows}", "run.root=runs",
         "cache.entries=20", f"cache.server.url={name}/v1"],
    ]  # fmt: skip


def _sweep(ground: Ground) -> list[list[str]]:
    return [["train", "recipe=lora", *ground.sound(), "evaluation.rows=2", "adapter.rank=1,2", "--sweep"]]


@pytest.mark.parametrize("runs", [_good, _broken_run, _urls, _sweep])
def test_secrets_are_in_no_file_of_a_run(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, runs: Callable[[Ground], list[list[str]]]
) -> None:
    """Every file under the working directory and the cache is searched, whatever its kind."""
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(ground.here / "cache"))
    told = [command(one, ground.here) for one in runs(ground)]
    codes = {_good: {0}, _broken_run: {3}, _urls: {0, 2}, _sweep: {0}}[runs]
    assert all(one.code in codes for one in told), "\n".join(map(_lines, told))
    files = [file for file in ground.here.rglob("*") if file.is_file()]
    assert len(files) > (-1 if runs is _urls else 8), files
    for file in files:
        data = file.read_bytes()
        for text in (SECRET.encode(), SECRET.encode("utf-16-le")):
            assert text not in data, f"{file} holds a secret"
