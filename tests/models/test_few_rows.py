"""A few rows at a time: the layers give what they give otherwise, and the model comes back as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from alignkit.evaluation.inference import reading
from alignkit.models.few_rows import ROWS, few_rows
from alignkit.models.fused_lora import fuse
from alignkit.models.fused_norm import fuse_norms
from alignkit.models.joint import Joint
from tests.models.test_fused import lora
from tests.tiny import build_model

KINDS = ["llama", "qwen2", "gpt2"]  # qwen2's projections have a bias, gpt2 has none of these layers but its head


def adapted(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """With a fused adapter, whose own weights stay in fp32."""
    options = {"fan_in_fan_out": True} if kind == "gpt2" else {}
    model = lora(kind, **options)
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.to(dtype)
    fuse(model, "default")
    fuse_norms(model)
    return model


def ids(rows: int, length: int = 3) -> torch.Tensor:
    return torch.randint(3, 259, (rows, length), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 7, ROWS])
def test_in_fp32_nothing_changes(kind: str, rows: int) -> None:
    for model in (adapted(kind), build_model(kind)):
        with reading(model):
            plain = model(ids(rows)).logits
            with few_rows(model):
                assert torch.equal(model(ids(rows)).logits, plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, ROWS])  # with three tokens each: fewer and more than ROWS
@pytest.mark.parametrize("tuned", [False, True])
def test_in_bf16_it_is_as_near_to_fp32_as_before(kind: str, rows: int, tuned: bool) -> None:
    def made(dtype: torch.dtype) -> Any:
        return adapted(kind, dtype) if tuned else build_model(kind).to(dtype)

    exact, model = made(torch.float32), made(torch.bfloat16)
    with reading(exact), reading(model):
        truth, plain = exact(ids(rows)).logits, model(ids(rows)).logits.float()
        with few_rows(model):
            found = model(ids(rows)).logits.float()
    assert float((found - truth).norm()) <= 1.2 * float((plain - truth).norm())


def test_an_adapter_that_is_off_stays_off() -> None:
    model = adapted("llama")
    with reading(model), model.disable_adapter():
        plain = model(ids(4)).logits
        with few_rows(model):
            off = model(ids(4)).logits
    with reading(model), few_rows(model):
        on = model(ids(4)).logits
    assert torch.equal(off, plain)
    assert not torch.allclose(on, off, atol=1e-3)


def test_the_model_comes_back_as_it_was_also_after_an_error() -> None:
    model = adapted("llama", torch.bfloat16)
    before = {name: vars(module).get("forward") for name, module in model.named_modules()}
    with pytest.raises(ZeroDivisionError), few_rows(model):
        inside = {name: vars(module).get("forward") for name, module in model.named_modules()}
        raise ZeroDivisionError
    # twice seven linear layers and their bases, the head, five norms, and both decoder layers
    assert sum(inside[name] is not before[name] for name in before) == 36
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == before
    loss = model(input_ids=ids(2), labels=ids(2)).loss
    loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)


def test_later_weights_are_those_that_count() -> None:
    """Nothing of one time is kept for the next."""
    model = adapted("llama", torch.bfloat16)
    found = []
    for _ in range(2):
        with reading(model), few_rows(model):
            found.append(model(ids(4)).logits)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.mul_(2)
    assert not torch.equal(*found)


def test_under_autocast_and_in_other_layers_nothing_changes() -> None:
    class Odd(nn.Linear):
        """A layer of somebody else's."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    odd = Odd(4, 4).bfloat16()
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    with reading(odd), few_rows(odd):
        assert torch.equal(odd(x), nn.functional.linear(x, odd.weight, odd.bias) + 1)
    model = adapted("llama")
    with reading(model), torch.autocast("cpu", torch.bfloat16):
        plain = model(ids(4)).logits
        with few_rows(model):
            assert torch.equal(model(ids(4)).logits, plain)


def written(model: Any, rows: int, *, padded: bool = False) -> torch.Tensor:
    """Logits (rows, 6, V) of tokens that are read one at a time after a prompt of three."""
    tokens = ids(rows, 9)
    mask = torch.ones(rows, 9, dtype=torch.long)
    if padded:
        mask[0, :2] = 0
    found, cache = [], None
    for start, end in [(0, 3), *((at, at + 1) for at in range(3, 9))]:
        given: dict[str, Any] = {"attention_mask": mask[:, :end]} if padded else {}
        if padded:
            given["position_ids"] = (mask[:, :end].cumsum(1) - 1).clamp(min=0)[:, start:end]
        output = model(input_ids=tokens[:, start:end], past_key_values=cache, use_cache=True, **given)
        cache = output.past_key_values
        found.append(output.logits[:, -1].float())
    return torch.stack(found[1:], 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [6, 24, ROWS + 1])
@pytest.mark.parametrize("tuned", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_token_after_token_is_as_near_to_fp32_as_before(kind: str, rows: int, tuned: bool, padded: bool) -> None:
    def made(dtype: torch.dtype) -> Any:
        model = adapted(kind, dtype) if tuned else build_model(kind).to(dtype)
        fuse_norms(model)
        return model

    exact, model = made(torch.float32), made(torch.bfloat16)
    with reading(exact), reading(model):
        truth, plain = written(exact, rows, padded=padded), written(model, rows, padded=padded)
        with few_rows(model):
            found = written(model, rows, padded=padded)
    # The median token: in a model of random weights one row in ten magnifies any rounding, and would decide a mean.
    assert float((found - truth).norm(dim=-1).median()) <= 1.2 * float((plain - truth).norm(dim=-1).median())


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the rows of each product of layers that are computed together."""
    seen: list[int] = []
    real = Joint.__call__

    def counted(self: Joint, flat: torch.Tensor) -> torch.Tensor:
        seen.append(len(flat))
        return real(self, flat)

    monkeypatch.setattr(Joint, "__call__", counted)
    return seen


def test_the_short_way_is_taken_for_single_tokens_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = adapted("llama", torch.bfloat16), calls(monkeypatch)
    with reading(model), few_rows(model):
        written(model, 6)
        assert seen == [6] * (6 * 2 * 4)  # six tokens, two layers, four products; none for the prompt
        seen.clear()
        written(model, ROWS + 1)
        written(model, 6, padded=True)
    assert not seen


def test_a_layer_that_somebody_watches_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen, heard = adapted("llama", torch.bfloat16), calls(monkeypatch), []
    for module in model.modules():
        if type(module).__name__ == "LlamaMLP":
            module.register_forward_hook(lambda *given: heard.append(1))
    with reading(model), few_rows(model):
        written(model, 6)
    assert not seen
    assert len(heard) == 7 * 2
