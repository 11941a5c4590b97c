"""The parent of several processes: what it prints, how it ends them, and whose sentence it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import save_tiny, write_chats

TWO = ["launch=ddp", "launch.processes=2", "launch.device=cpu"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    save_tiny(place / "tiny")
    write_chats(place / "chats.jsonl", 24)
    return place


def command(place: Path, *words: str) -> list[str]:
    given = ["recipe=sft", f"model={place}/tiny", f"data={place}/chats.jsonl", "model.dtype=fp32", "batch.size=8"]
    return ["alignkit", "train", *given, "evaluation.rows=0", "data.holdout=0", f"run.root={place}/runs", *words]


def start(words: list[str], **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def wait_for(run_root: Path, lines: int, process: subprocess.Popen[str]) -> Path:
    """The run's directory, once so many steps are done."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for file in run_root.glob("*/metrics.jsonl"):
            if len(file.read_text(encoding="utf-8").splitlines()) >= lines:
                return file.parent
        time.sleep(0.02)
    raise AssertionError(f"no run came to step {lines}: {process.communicate()[1][-2000:]}")


def children(process: subprocess.Popen[str]) -> list[int]:
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8")
    return [int(pid) for pid in found.split()]


def test_one_story_one_path_and_the_same_again_is_done(here: Path) -> None:
    code, out, err = finish(start(command(here, "schedule.max_steps=2", *TWO)))
    assert code == 0, err
    path = Path(out.strip())
    assert out.count("\n") == 1 and (path / "model.safetensors").exists()
    assert err.count("training on 24 rows") == 1
    code, again, err = finish(start(command(here, "schedule.max_steps=2")))  # how many made it is not part of a run
    assert (code, again) == (0, out)
    assert "done before" in err


@pytest.mark.parametrize(
    "launcher", ["torch.distributed.run", pytest.param("accelerate.commands.launch", marks=pytest.mark.slow)]
)
def test_by_hand(here: Path, launcher: str) -> None:
    flags = ["--nproc-per-node", "2"] if launcher.startswith("torch") else ["--num_processes", "2", "--cpu"]
    more = [] if launcher.startswith("torch") else ["--num_machines", "1", "--mixed_precision", "no"]
    root = here / launcher.partition(".")[0]
    words = command(here, "schedule.max_steps=2", f"run.root={root}")
    code, out, err = finish(start([launcher, *flags, *more, "-m", *words]))
    assert code == 0, err[-3000:]
    assert out.count("\n") == 1 and (Path(out.strip()) / "model.safetensors").exists()
    assert err.count("training on 24 rows") == 1


def test_a_signal_ends_the_step_and_the_same_command_goes_on(here: Path) -> None:
    words = command(here, "schedule.max_steps=100000", "checkpoint.every=50000", f"run.root={here}/asked", *TWO)
    process = start(words)
    run = wait_for(here / "asked", 5, process)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert (code, out) == (128 + signal.SIGINT, "")
    assert err.count("its checkpoint is saved") == 1
    [checkpoint] = (run / "checkpoints").iterdir()
    assert (checkpoint / "digests.json").exists()
    process = start(words)
    wait_for(here / "asked", int(checkpoint.name.rpartition("-")[2]) + 3, process)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGTERM
    assert f"resuming from step {checkpoint.name.rpartition('-')[2]}" in err


def test_one_that_is_killed_takes_the_others_with_it(here: Path) -> None:
    process = start(command(here, "schedule.max_steps=100000", f"run.root={here}/killed", *TWO))
    run = wait_for(here / "killed", 3, process)
    ranks = children(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    began = time.monotonic()
    code, out, err = finish(process)
    assert time.monotonic() - began < 10
    assert (code, out) == (1, "")
    assert "Process 1 of 2 ended by signal 9 without a word" in err
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    failed = json.loads((run / "state" / "failed.json").read_text(encoding="utf-8"))
    assert "Process 1 of 2" in failed["sentence"]


def test_what_a_process_says_is_what_the_person_reads(here: Path) -> None:
    # A learning rate that breaks the numbers: each process stops by itself, and one sentence is enough.
    words = ["schedule.max_steps=50", "optimizer.learning_rate=1e30", "optimizer.max_grad_norm=1e30"]
    code, out, err = finish(start(command(here, *words, f"run.root={here}/numbers", *TWO)))
    assert (code, out) == (3, "")
    assert err.count("the run stops before this step changes the weights") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launch=ddp", "launch.processes=9"], "8 rows a step do not go round 9 processes"),
        (["launch.processes=2"], "launch.engine is local"),
        (["launch.zero=3", "launch=fsdp"], "is a setting of deepspeed"),
        (["launch.offload=true"], "keeps everything on the device"),
        (["launch=fsdp", "adapter=lora", "quantization=nf4"], "cannot be split"),
        (["launch=dpp"], "ddp"),
    ],
)
def test_what_a_launch_cannot_be_is_said_first(here: Path, words: list[str], said: str) -> None:
    from alignkit import journey

    _, faults = journey.check("sft", [word for word in command(here, *words)[3:] if word != "launch"])
    assert any(said in str(fault) for fault in faults), faults
