"""What a model costs: its size against what is known of it, and speeds that follow the work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignkit.config.sections import Model, Quantization
from alignkit.evaluation import cost
from alignkit.evaluation.cost import Cost, cost_of, size_of
from alignkit.models.loading import load
from tests.tiny import build_model


def test_tied_weights_count_once() -> None:
    tied, untied = (build_model(tie_word_embeddings=tied) for tied in (True, False))
    head = 259 * 32
    assert size_of(untied)[0] - size_of(tied)[0] == head
    assert size_of(tied)[1] == 4 * size_of(tied)[0] and size_of(untied.bfloat16())[1] == 2 * size_of(untied)[0]


def test_quantized_weights_count_as_what_they_stand_for(tiny_llama: Path) -> None:
    pytest.importorskip("bitsandbytes")
    plain = load(Model(name=str(tiny_llama), dtype="bf16"), device="cpu").model
    packed = load(Model(name=str(tiny_llama), dtype="bf16"), Quantization(kind="nf4"), device="cpu").model
    assert size_of(packed)[0] == size_of(plain)[0]
    linear = sum(
        module.weight.numel()
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    )
    saved = size_of(plain)[1] - size_of(packed)[1]
    assert 0 < saved < 1.5 * linear  # a value goes from two bytes to half of one, and the scales take some of that


def test_speeds_are_tokens_over_the_fastest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model()
    clock = iter([0, 50, 50, 52, 52, 53, 53, 57, 60, 99, 99, 100, 100, 103, 103, 109])
    monkeypatch.setattr("alignkit.evaluation.cost.time.perf_counter", lambda: float(next(clock)))
    found = cost_of(model)
    assert found.read_per_second == cost.READ / 1 and found.written_per_second == cost.WRITTEN / 1


def test_half_of_the_layers_are_faster() -> None:
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512}
    whole, half = (cost_of(build_model(layers=layers, **shape)) for layers in (16, 4))
    assert half.read_per_second > 1.2 * whole.read_per_second
    assert half.written_per_second > 1.2 * whole.written_per_second
    assert half.parameters < whole.parameters


def test_trained_weights_are_measured_in_the_format_they_are_used_in() -> None:
    model = build_model(tie_word_embeddings=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    places = [parameter.data_ptr() for parameter in model.parameters()]
    seen: list[torch.dtype] = []
    handle = model.model.norm.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    found = cost_of(model, dtype=torch.bfloat16, repeats=1)
    handle.remove()
    assert set(seen) == {torch.bfloat16} and found.weight_bytes == 2 * found.parameters
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert places == [parameter.data_ptr() for parameter in model.parameters()]
    assert cost_of(model, repeats=1).weight_bytes == 4 * found.parameters


def test_measuring_leaves_the_model_as_it_was() -> None:
    model = build_model(max_position_embeddings=20).train()  # reads fewer tokens than are timed
    drawn = torch.random.get_rng_state()
    found = cost_of(model, repeats=1)
    assert model.training and torch.equal(drawn, torch.random.get_rng_state())
    assert found.read_per_second > 0 and found.written_per_second > 0


def test_it_goes_into_a_manifest_and_comes_back() -> None:
    found = Cost(parameters=81_000_000, weight_bytes=162_000_000, read_per_second=1234.56, written_per_second=12.345)
    again = Cost.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == dataclasses.replace(again, parameters=found.parameters, weight_bytes=found.weight_bytes)
    assert [figure.text for figure in again.figures()] == ["81.0 M", "162 MB", "1,235", "12.3"]
