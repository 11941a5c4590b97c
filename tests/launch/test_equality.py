"""Two processes give what one gives at the same global batch: the loss of every step, and the weights at the end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import alignkit
from alignkit.errors import RunError
from tests.launch.stopping import stop_after
from tests.stages.dpo.preferences import write_pairs
from tests.tiny import save_tiny, write_chats

ENGINES = ["ddp", "fsdp"] + ["deepspeed"] * bool(find_spec("deepspeed"))  # an extra; ZeRO runs on CPUs too
# A last step that does not go round: 23 rows are 8, 8 and 7, and seven rows are four micro-batches of two.
COMMON = ["batch.size=8", "batch.micro=2", "schedule.epochs=2", "optimizer.learning_rate=1e-3", "model.dtype=fp32"]
COMMON += ["data.holdout=4", "evaluation.rows=4", "evaluation.samples=0", "evaluation.max_new_tokens=4"]
COMMON += ["run.root={here}/runs"]
PAIRS, CHATS = "data={here}/pairs.jsonl", "data={here}/chats.jsonl"
CASES = {
    "sft": ("sft", [CHATS]),
    "lora": ("lora", [CHATS]),
    "dora": ("lora", [CHATS, "adapter=dora"]),
    "packed": ("sft", [CHATS, "data.packing=true"]),
    "dpo": ("dpo", [PAIRS]),
    "kto": ("kto", [PAIRS]),
    "aot": ("aot", [PAIRS]),
    "orpo": ("orpo", [PAIRS]),
    "reward": ("reward", [PAIRS, "adapter=none"]),
    "distill": ("distill", [CHATS, "teacher={here}/teacher"]),
    "extend": ("yarn", ["data={here}/long.jsonl", "model={here}/short", "context.length=256", "schedule.max_steps=3"]),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of each case, one on each engine, made by the same two processes."""
    place = tmp_path_factory.mktemp("launch")
    save_tiny(place / "tiny")
    save_tiny(place / "teacher", seed=1)
    save_tiny(place / "short", max_position_embeddings=128)
    write_chats(place / "chats.jsonl", 27)
    write_pairs(place / "pairs.jsonl", 27)
    texts = (" ".join(["abc", "de", "fgh", "ijk"][(i * j * j) % 4] for j in range(100 + 5 * i)) for i in range(27))
    (place / "long.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")
    requests = [request(case, place, engine) for case in CASES for engine in ("ddp", "fsdp")]
    requests += [
        request("sft", place, "fsdp", root="resumed", stop=3),
        request("lora", place, "fsdp", root="resumed", stop=3),
        request("sft", place, "ddp", root="resumed-ddp", stop=3),
        request("sft", place, "ddp", root="resumed-ddp"),
    ]
    run_together(place, requests)
    if "deepspeed" in ENGINES:
        zero3 = ["launch.zero=3"]
        run_together(  # apart: FSDP changes how torch moves modules for the rest of a process
            place,
            [
                *(request(case, place, "deepspeed") for case in CASES),
                request("lora", place, "deepspeed", root="zero", more=zero3, stop=3),
                request("lora", place, "deepspeed", root="zero", more=zero3),
            ],
        )
    for case in ("sft", "lora"):  # and from one process to two
        with stop_after(3):
            alone(case, place, root="handed-over")
    run_together(place, [request(case, place, "fsdp", root="handed-over") for case in ("sft", "lora")])
    return place


def words(case: str, place: Path, root: str) -> list[str]:
    model = "model={here}/tiny"
    given = [*COMMON, model, *CASES[case][1]]
    seen: dict[str, str] = {word.partition("=")[0]: word for word in given}
    return [word.format(here=place).replace("/runs", f"/{root}") for word in seen.values()]


def request(
    case: str, place: Path, engine: str, *, root: str | None = None, stop: int | None = None, more: Any = ()
) -> Any:
    launch = [f"launch={engine}", "launch.processes=2", "launch.device=cpu", *more]
    return [CASES[case][0], [*words(case, place, root or f"{case}-{engine}"), *launch], stop]


def alone(case: str, place: Path, root: str = "alone") -> dict[str, Any]:
    return alignkit.train(CASES[case][0], words(case, place, root))


def run_together(place: Path, requests: list[Any]) -> None:
    """Both ranks through all requests."""
    file = place / "requests.json"
    file.write_text(json.dumps(requests), encoding="utf-8")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "tests.launch.driver", str(file)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", str(port)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=400)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(said)[-6000:]
    assert "evaluating after" in said[0]
    assert "rows" not in said[1]  # one process tells the story


def losses(root: Path) -> list[float]:
    [file] = root.glob("*/metrics.jsonl")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def weights(root: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {
        name: tensor for file in sorted(root.glob("*/model/*.safetensors")) for name, tensor in load_file(file).items()
    }


def assert_equal(one: Path, other: Path) -> None:
    import torch

    assert len(losses(one)) >= 3
    assert losses(other) == pytest.approx(losses(one), abs=1e-5)
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys() and ours
    for name, tensor in ours.items():
        torch.testing.assert_close(theirs[name], tensor, atol=1e-5, rtol=0, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_one_process(case: str, here: Path) -> None:
    import torch

    alone(case, here, f"{case}-alone")
    for engine in ENGINES:
        assert_equal(here / f"{case}-alone", here / f"{case}-{engine}")
    start = losses(here / f"{case}-alone")
    assert start[0] != start[-1]  # something was learned, or equality would say nothing
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(here / f"{case}-ddp").values())


@pytest.mark.parametrize("case", ["sft", "lora"])
def test_what_was_begun_in_shards_goes_on_in_one_process(case: str, here: Path) -> None:
    result = alone(case, here, "resumed")
    assert result["metrics"]["training"]["resumed_from_step"] == 3
    [run] = (here / "resumed").glob(f"{case}-*")
    compare(run, here / f"{case}-fsdp")


@pytest.mark.parametrize("case", ["sft", "lora"])
def test_what_was_begun_in_one_process_goes_on_in_shards(case: str, here: Path) -> None:
    [run] = (here / "handed-over").glob(f"{case}-*")
    compare(run, here / f"{case}-fsdp")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["metrics"]["training"]["resumed_from_step"] == 3


def test_two_processes_resume_as_one_does(here: Path) -> None:
    [run] = (here / "resumed-ddp").glob("sft-*")
    compare(run, here / "sft-ddp", atol=0.0)


@pytest.mark.skipif("deepspeed" not in ENGINES, reason="DeepSpeed is not installed")
def test_zero_resumes_and_hands_nothing_over(here: Path) -> None:
    [run] = (here / "zero").glob("lora-*")
    compare(run, here / "lora-fsdp")
    (run / "manifest.json").unlink()
    (run / "state" / "trained.json").unlink()
    with pytest.raises(RunError, match="written by DeepSpeed in 2 processes"):
        alone("lora", here, "zero")


def compare(run: Path, whole: Path, *, atol: float = 1e-5) -> None:
    """A run that was handed over against one that was not."""
    import torch
    from safetensors.torch import load_file

    [file] = (run / "model").glob("*.safetensors")
    theirs = weights(whole)
    for name, tensor in load_file(file).items():
        torch.testing.assert_close(tensor, theirs[name], atol=atol, rtol=0, msg=name)
