"""Rows laid end to end never see each other: logits and gradients are those of the rows apart."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from alignkit.models import attention
from alignkit.models.attention import VARLEN, can_isolate, use_varlen
from tests.tiny import build_model

LENGTHS = [5, 9, 9, 1, 14]
KINDS = {
    "llama": {},
    "qwen2": {},
    "mistral": {"sliding_window": 4},
    "gpt2": {},
}


def packed(lengths: list[int], vocab: int = 259) -> dict[str, Any]:
    """Documents of random tokens end to end, as a forward pass takes them."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(3, vocab, (1, sum(lengths)), generator=generator),
        "position_ids": torch.cat([torch.arange(n) for n in lengths]).unsqueeze(0),
        "document_lengths": lengths,
        "use_cache": False,
    }


def varlen_model(kind: str, **changes: Any) -> Any:
    model = build_model(kind, **{**KINDS[kind], **changes})
    for parameter in model.parameters():  # the default initialisation is too small to tell a leak by
        if parameter.ndim == 2:
            parameter.data.mul_(8)
    use_varlen(model)
    return model.eval()


def apart(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    rows = batch["input_ids"].split(batch["document_lengths"], dim=1)
    return torch.cat([model(input_ids=row, use_cache=False).logits for row in rows], dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_gradients_equal_those_of_the_rows_apart(kind: str) -> None:
    model, batch = varlen_model(kind), packed(LENGTHS)
    weights = torch.randn(1, sum(LENGTHS), 259, generator=torch.Generator().manual_seed(2))
    gradients = []
    for logits in (model(**batch).logits, apart(model, batch)):
        model.zero_grad()
        (logits * weights).sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(model(**batch).logits, apart(model, batch), rtol=1e-4, atol=1e-4)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()) + 1e-6)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_gradient_checkpointing_recomputes_the_same(kind: str) -> None:
    model, batch = varlen_model(kind), packed(LENGTHS)
    plain = torch.autograd.grad(model(**batch).logits.square().sum(), list(model.parameters()), allow_unused=True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    model.config.attn_pdrop = model.config.embd_pdrop = model.config.resid_pdrop = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    again = torch.autograd.grad(model(**batch).logits.square().sum(), list(model.parameters()), allow_unused=True)
    for one, other in zip(plain, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(one.abs().max()) + 1e-8)


def test_reaches_the_layers_under_an_adapter() -> None:
    from peft import LoraConfig, get_peft_model

    model, batch = varlen_model("llama"), packed(LENGTHS)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    torch.testing.assert_close(peft(**batch).logits, apart(peft, batch), rtol=1e-4, atol=1e-4)


def test_no_mask_is_built_for_documents() -> None:
    model, batch = varlen_model("mistral"), packed(LENGTHS)
    with mock.patch.object(attention, "sdpa_mask", side_effect=AssertionError("a mask was built")):
        model(**batch)
        with pytest.raises(AssertionError, match="a mask was built"):
            model(input_ids=batch["input_ids"])


def test_without_documents_it_is_sdpa() -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    found = {}
    for name in ("sdpa", VARLEN):
        model = build_model("mistral", sliding_window=3).eval()
        model.set_attn_implementation(name)
        found[name] = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=12,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    assert torch.equal(found["sdpa"].sequences, found[VARLEN].sequences)
    for one, other in zip(found["sdpa"].logits, found[VARLEN].logits, strict=True):
        assert torch.equal(one, other)


def test_a_padded_batch_after_a_packed_one_gets_its_mask() -> None:
    model, batch = varlen_model("llama"), packed(LENGTHS)
    ids = torch.tensor([[0, 0, 5, 6, 7, 8], [9, 8, 7, 6, 5, 4]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    before = model(input_ids=ids, attention_mask=mask).logits
    model(**batch)
    with pytest.raises(ValueError, match="document lengths"):
        model(**{**batch, "document_lengths": [1, 2]})
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_can_isolate(kind: str, dtype: torch.dtype) -> None:
    assert can_isolate(varlen_model(kind).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_state_space_model_cannot_isolate(dtype: torch.dtype) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("mamba", vocab_size=259, hidden_size=32, state_size=4, num_hidden_layers=2)
    assert not can_isolate(AutoModelForCausalLM.from_config(config).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_leak_is_found_out(dtype: torch.dtype) -> None:
    """Attention that goes on across documents, in a model whose mask function trusts it not to."""

    def leaky(*arguments: Any, document_lengths: Any = None, **kwargs: Any) -> Any:
        return attention.sdpa_attention_forward(*arguments, **kwargs)

    model = varlen_model("llama").to(dtype)
    with mock.patch.dict(attention.AttentionInterface._global_mapping, {VARLEN: leaky}):
        assert not can_isolate(model)
    assert can_isolate(model)


def test_patterns_that_only_a_mask_knows_are_found_out() -> None:
    """Llama 4 attends within chunks; a window that the layers do not pass on would be lost in long documents."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama4_text", vocab_size=259, num_key_value_heads=2, head_dim=8, **shape)
    chunked = AutoModelForCausalLM.from_config(config)
    use_varlen(chunked)
    assert "chunked_attention" in config.layer_types and not can_isolate(chunked)

    def forgetful(*arguments: Any, sliding_window: Any = None, **kwargs: Any) -> Any:
        return attention.varlen_attention(*arguments, **kwargs)

    model = varlen_model("mistral", sliding_window=400)
    assert can_isolate(model)
    with mock.patch.dict(attention.AttentionInterface._global_mapping, {VARLEN: forgetful}):
        assert not can_isolate(model)


def test_attention_that_it_does_not_compute_is_refused() -> None:
    q = torch.randn(1, 2, 4, 8)
    with pytest.raises(ValueError, match="softcap"):
        attention.varlen_attention(torch.nn.Module(), q, q, q, None, document_lengths=[2, 2], softcap=30.0)
