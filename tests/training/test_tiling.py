"""Tiles give the outputs and gradients of the whole, and keep fewer numbers for the backward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alignkit.training.tiling import tile_tokenwise, tiled_modules
from tests.tiny import build_model


def passed(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Loss, gradients, and the numbers that the forward pass kept."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    model.zero_grad(set_to_none=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, kept


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gpt2"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_tiles_change_nothing_but_the_memory(kind: str, checkpointing: bool) -> None:
    model = build_model(kind).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    ids = torch.randint(3, 259, (2, 50), generator=torch.Generator().manual_seed(0))
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    loss, gradients, kept = passed(model, ids)
    count = tile_tokenwise(model, 16)  # 50 = 3 tiles and a rest
    assert count == len(list(tiled_modules(model))) >= 6
    tiled_loss, tiled_gradients, tiled_kept = passed(model, ids)
    torch.testing.assert_close(tiled_loss, loss, rtol=1e-12, atol=0)
    assert tiled_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(tiled_gradients[name], gradient, rtol=1e-9, atol=1e-12)
    if not checkpointing:
        assert tiled_kept < 0.7 * kept


def test_short_rows_and_reading_go_through_as_before() -> None:
    model = build_model().train()
    ids = torch.randint(3, 259, (1, 40), generator=torch.Generator().manual_seed(0))
    before = passed(model, ids)
    tile_tokenwise(model, 40)
    assert passed(model, ids)[2] == before[2]
    tile_tokenwise(model, 8)
    assert passed(model, ids)[2] < before[2]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, build_model()(ids).logits)
