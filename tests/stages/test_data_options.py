"""What the data section can say, all the way through a run: loss weights, blocks, mixtures, rows left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.errors import RequestError
from tests.stages.runs import train, weights
from tests.tiny import write_chats

OTHER = "an answer that nobody should learn"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def differ(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest difference between the weights of two results."""
    from safetensors.torch import load_file

    a, b = (load_file(next(Path(result["path"]).glob("*.safetensors"))) for result in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_a_weight_of_zero_is_context_and_a_half_counts_half(tiny_llama: Path, tmp_path: Path) -> None:
    """Answers of weight 0 teach nothing: a run on them equals one on rows of which only the last answer is trained."""

    def rows(first: dict[str, Any], second: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "messages": [
                    turn("user", f"ask {n}"),
                    turn("assistant", f"first {n}", **first),
                    turn("user", "more"),
                    turn("assistant", f"second {n * 7}", **second),
                ]
            }
            for n in range(16)
        ]

    zero = write(tmp_path / "zero.jsonl", rows({"weight": 0}, {"weight": 1}))
    plain = write(tmp_path / "plain.jsonl", rows({}, {}))
    half = write(tmp_path / "half.jsonl", rows({"weight": 0.5}, {}))
    same = write(tmp_path / "same.jsonl", rows({"weight": 0.5}, {"weight": 0.5}))
    kwargs: dict[str, Any] = {"data__holdout": 0, "data__max_length": 128, "optimizer__learning_rate": "1e-3"}
    zeroed = train("sft", tiny_llama, zero, tmp_path / "a", **kwargs)
    last = train("sft", tiny_llama, plain, tmp_path / "b", data__train_on="last", **kwargs)
    every = train("sft", tiny_llama, plain, tmp_path / "c", **kwargs)
    halved = train("sft", tiny_llama, half, tmp_path / "d", **kwargs)
    equal = train("sft", tiny_llama, same, tmp_path / "e", **kwargs)
    assert differ(zeroed, last) < 1e-6
    assert differ(equal, every) < 1e-5  # a mean over weights: equal ones cancel
    assert differ(halved, every) > 1e-4
    assert differ(halved, last) > 1e-4
    padded = train("sft", tiny_llama, half, tmp_path / "f", data__packing="false", **kwargs)
    assert differ(halved, padded) < 1e-4


def test_dft_refuses_weights_before_the_model_is_loaded(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"messages": [turn("user", "a"), turn("assistant", f"b {n}", weight=0.5)]} for n in range(9)]
    with pytest.raises(RequestError, match="dft sets the weight of each token itself"):
        train("sft", tiny_llama, write(tmp_path / "rows.jsonl", rows), tmp_path / "runs", sft__loss="dft")


def test_best_fit_blocks_train_on_every_row_once(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    result = train(
        "sft",
        tiny_llama,
        chats,
        tmp_path / "runs",
        data__packing="best-fit",
        data__max_length=128,
        batch__size=2,
        schedule__epochs=1,
        schedule__max_steps="null",
    )
    training = result["metrics"]["training"]
    data = result["metrics"]["data"]
    assert training["labelled_tokens"] == data["trained_tokens"]
    assert training["tokens"] == data["tokens"]
    assert training["steps"] < 20 / 2  # 20 rows would be 10 batches of 2; blocks hold several
    assert "block" in (Path(result["run"]) / "log.txt").read_text()


def test_a_mixture_trains_on_its_shares(tiny_llama: Path, tmp_path: Path) -> None:
    write_chats(tmp_path / "a.jsonl")
    write(
        tmp_path / "b.jsonl",
        [{"messages": [turn("user", f"other {n}"), turn("assistant", OTHER)]} for n in range(40)],
    )
    source = f"[{{name: {tmp_path}/a.jsonl, weight: 3}},{{name: {tmp_path}/b.jsonl, weight: 1}}]"
    result = train("sft", tiny_llama, Path(source), tmp_path / "runs", data__max_length=128, data__holdout=0)
    assert result["metrics"]["data"]["rows"] == 32  # all 24 of the first, and a third as many of the second
    log = (Path(result["run"]) / "log.txt").read_text()
    assert "read 24 rows of a.jsonl" in log and "read 40 rows of b.jsonl" in log


def test_rows_that_cannot_be_used_stop_the_run_or_are_written_beside_it(tiny_llama: Path, tmp_path: Path) -> None:
    rows: list[Any] = [{"messages": [turn("user", f"a {n}"), turn("assistant", f"b {n}")]} for n in range(20)]
    rows[16] = {"messages": [turn("user", "a"), turn("assistant", "")]}
    data = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RequestError, match=r"rows\.jsonl line 17.*empty"):
        train("sft", tiny_llama, data, tmp_path / "runs")
    result = train("sft", tiny_llama, data, tmp_path / "runs", data__on_error="skip")
    [skipped] = map(json.loads, (Path(result["run"]) / "skipped.jsonl").read_text().splitlines())
    assert skipped["where"].endswith("rows.jsonl line 17, turn 2")
    assert "empty" in skipped["what"]
    assert result["metrics"]["data"]["skipped"] == 1
    assert result["metrics"]["data"]["rows"] == 15


def test_the_same_rows_in_another_file_are_the_same_run(tiny_llama: Path, chats: Path, tmp_path: Path) -> None:
    first = train("sft", tiny_llama, chats, tmp_path / "a")
    copied = tmp_path / "other" / "name.jsonl"
    copied.parent.mkdir()
    copied.write_bytes(chats.read_bytes())
    second = train("sft", tiny_llama, copied, tmp_path / "b")
    assert weights(first) == weights(second)
    assert first["key"] == second["key"]
    assert torch.isfinite(torch.tensor(second["metrics"]["training"]["loss_last"]))
