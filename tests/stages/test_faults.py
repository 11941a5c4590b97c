"""What goes wrong while running: signals, NaN, locks, full memory; through the real command."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.stages.runs import interrupt_when, shell, train, weights, words


def test_stdout_is_the_path_and_nothing_else(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    done = shell("lora", words(tiny_llama, chats, tmp_path, evaluation__rows=4))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    path = Path(done.stdout.strip())
    assert path.is_absolute() and (path / "adapter_config.json").exists()
    assert "Traceback" not in done.stderr
    again = shell("lora", words(tiny_llama, chats, tmp_path, evaluation__rows=4), "-q")
    assert again.stdout == done.stdout and again.stderr == ""


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_the_same_command_goes_on(
    signum: signal.Signals, code: int, tiny_llama: Path, chats: Path, tmp_path: Path
) -> None:
    changes = {"schedule__max_steps": 400, "checkpoint__every": 1000}
    overrides = words(tiny_llama, chats, tmp_path / "runs", **changes)
    found, stderr = interrupt_when("lora", overrides, "step 1/400", signum)
    assert found == code, stderr
    assert "goes on from there" in stderr and "Traceback" not in stderr
    assert list((tmp_path / "runs").glob("*/checkpoints/checkpoint-*/digests.json"))
    if signum == signal.SIGINT:
        done = shell("lora", overrides, "--json")
        assert done.returncode == 0, done.stderr
        assert "resuming from step" in done.stderr
        whole = train("lora", tiny_llama, chats, tmp_path / "whole", **changes)
        run = next((tmp_path / "runs").glob("lora-*"))
        assert {p.name: p.read_bytes() for p in (run / "model").glob("*.safetensors")} == weights(whole)


def test_numbers_that_go_wrong_end_with_exit_3(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    done = shell("sft", words(tiny_llama, chats, tmp_path, optimizer__learning_rate="1e30", schedule__warmup=0))
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "At step 2" in done.stderr and "chats.jsonl line" in done.stderr and "checkpoint-1" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_in_use_is_refused_with_the_holder(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    import os

    from alignkit.errors import RunError
    from alignkit.runs.directory import open_run

    first = train("lora", tiny_llama, chats, tmp_path)
    run = open_run(tmp_path, "lora", first["key"])
    (Path(first["run"]) / "manifest.json").unlink()  # half done, as far as anyone can see
    with run.lock():
        done = shell("lora", words(tiny_llama, chats, tmp_path))
    assert done.returncode == 1
    assert str(os.getpid()) in done.stderr
    assert RunError.exit_code == 1


def test_out_of_memory_is_one_paragraph_with_three_settings(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.errors import RunError

    def exhausted(*args: object, **kwargs: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried 9 GB")

    monkeypatch.setattr("alignkit.training.stage.train", exhausted)
    with pytest.raises(RunError) as caught:
        train("sft", tiny_llama, chats, tmp_path)
    text = str(caught.value)
    assert "batch.micro=2" in text and "memory.gradient_checkpointing=true" in text and "recipe=lora" in text
    assert "\n" not in text


def test_a_full_disk_keeps_the_last_checkpoint(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignkit.errors import RunError
    from alignkit.training import checkpoints

    calls = []

    def full(staged: Path, directory: Path, sealing: checkpoints.Sealing) -> Path:
        calls.append(staged)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return commit(staged, directory, sealing)

    commit = checkpoints.commit
    monkeypatch.setattr(checkpoints, "commit", full)
    with pytest.raises(RunError, match="step 3 could not be written: No space left"):
        train("lora", tiny_llama, chats, tmp_path)
    monkeypatch.setattr(checkpoints, "commit", commit)
    assert train("lora", tiny_llama, chats, tmp_path)["metrics"]["training"]["resumed_from_step"] == 2


def test_python_leaves_stdout_alone(
    tiny_llama: Path, chats: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print("before")
    train("lora", tiny_llama, chats, tmp_path)
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"


def test_rows_from_stdin_are_kept_in_the_run(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    import subprocess

    from tests.stages.runs import ROOT, command, environment

    overrides = words(tiny_llama, Path("-"), tmp_path / "runs")
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            command("lora", overrides), input=chats.read_bytes(), capture_output=True, cwd=ROOT, env=environment()
        )
        assert done.returncode == 0, done.stderr.decode()
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and b"done before" in done.stderr
    run = Path(outputs[0].decode().strip()).parent
    assert (run / "stdin.jsonl").read_bytes() == chats.read_bytes()
    assert not list((tmp_path / "runs").glob(".stdin*"))
    nothing = subprocess.run(
        command("lora", overrides), stdin=subprocess.DEVNULL, capture_output=True, cwd=ROOT, env=environment()
    )
    assert nothing.returncode == 2 and b"stdin is empty" in nothing.stderr


def test_going_on_under_other_conditions_is_refused(
    tiny_llama: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` that resolves to something else in the middle of a run would give a model that nobody asked for."""
    from alignkit.errors import RunError

    monkeypatch.setattr("alignkit.training.results.keep_trained", lambda *a: (_ for _ in ()).throw(RunError("killed")))
    with pytest.raises(RunError, match="killed"):
        train("lora", tiny_llama, chats, tmp_path)
    monkeypatch.setattr("alignkit.training.precision.layout", lambda *a: "padded")
    with pytest.raises(RunError, match="layout was flattened and is padded"):
        train("lora", tiny_llama, chats, tmp_path)
