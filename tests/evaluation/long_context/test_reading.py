"""Reading in pieces is reading: losses as of one plain forward pass, answers as `generate` gives them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alignkit.evaluation.inference import reading
from alignkit.evaluation.long_context import reading as long_reading
from alignkit.evaluation.long_context.reading import answers, position_limit, token_losses, tokens_to_read
from tests.tiny import build_model

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {}),
    "sliding window": ("mistral", {"sliding_window": 24}),
    "yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "dynamic": (
        "llama",
        {"max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}},
    ),
    "longrope": (
        "llama",
        {
            "max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 4.0,
                "short_factor": [1.0] * 4,
                "long_factor": [1.0, 2.0, 3.0, 4.0],
                "original_max_position_embeddings": 64,
            },
        },
    ),
}


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    kind, changes = KINDS[request.param]
    return build_model(kind, **changes).eval()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that a short text is cut into; prompts of more than 16 tokens go alone."""
    monkeypatch.setattr(long_reading, "PIECE", 32)


def texts(count: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 259, (count, length), generator=torch.Generator().manual_seed(seed))


def plain_losses(model: Any, ids: torch.Tensor) -> np.ndarray:
    """(B, L - 1) by one forward pass, in numpy. A fresh copy: no length that was read before is remembered."""
    import copy

    with torch.no_grad():
        logits = copy.deepcopy(model)(input_ids=ids, use_cache=False).logits.double().numpy()[:, :-1]
    shifted = logits - logits.max(-1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(log_probs, ids.numpy()[:, 1:, None], -1)[..., 0]


@pytest.mark.parametrize("scored", [1, 5, 40, 99])
def test_losses_in_pieces_are_those_of_one_pass(model: Any, small_pieces: None, scored: int) -> None:
    ids = texts(3, 100)
    expected = plain_losses(model, ids)[:, -scored:]
    count: list[int] = []
    with reading(model):
        token_losses(model, texts(1, 200), 7)  # longer, and before: what it leaves behind must not matter
        found = token_losses(model, ids, scored, count.append)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
    assert sum(count) == 3 * 99  # the last token predicts nothing that is scored


def test_the_pieces_are_pieces(small_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes through at once is bounded by tokens, by the mask and by the logits, whatever the text's length."""
    model = build_model().eval()
    sizes: list[tuple[int, int]] = []
    model.base_model.register_forward_pre_hook(
        lambda module, arguments, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    with reading(model):
        token_losses(model, texts(2, 129), 3)
        assert sizes == [(2, 16)] * 8
        monkeypatch.setattr(long_reading, "LOGIT_BYTES", 20 * 4 * 259)
        del sizes[:]
        token_losses(model, texts(1, 41), 40)
        assert sizes == [(1, 20)] * 2
        monkeypatch.setattr(long_reading, "MASK_ENTRIES", 18 * 37)
        del sizes[:]
        token_losses(model, texts(1, 37), 2)
        assert sizes == [(1, 18)] * 2


@pytest.mark.parametrize(("length", "scored"), [(5, 5), (5, 0), (1, 1)])
def test_what_cannot_be_scored(length: int, scored: int) -> None:
    with pytest.raises(ValueError, match="cannot be scored"):
        token_losses(build_model(), texts(1, length), scored)


def generated(model: Any, prompt: list[int], new: int) -> list[int]:
    import copy

    fresh = copy.deepcopy(model)  # lengths that it has read are not remembered
    fresh.generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    out = fresh.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=new,
        min_new_tokens=new,
        pad_token_id=0,
    )
    found: list[int] = out[0, len(prompt) :].tolist()
    return found


def test_answers_are_those_of_generate(model: Any, small_pieces: None) -> None:
    start = texts(1, 60)[0].tolist()
    middle = texts(1, 30, seed=1)[0].tolist()
    prompts = [
        start + middle + [7, 8, 9],
        start[:50] + middle,
        texts(1, 12, seed=2)[0].tolist(),  # short: in a batch with the one of its length
        start + middle + [7, 8, 10, 11],
        texts(1, 12, seed=3)[0].tolist(),
        texts(1, 9, seed=4)[0].tolist(),
        start + middle + [7, 8, 9],  # twice the same
        start + middle[:5],  # a beginning of another
    ]
    count: list[int] = []
    with reading(model):
        found = answers(model, prompts, 6, count.append)
    assert found == [generated(model, prompt, 6) for prompt in prompts]
    assert sum(count) <= sum(map(len, prompts))


def test_what_prompts_share_is_read_once(small_pieces: None) -> None:
    model = build_model().eval()
    shared = texts(1, 200)[0].tolist()
    prompts = [[*shared, *texts(1, 5, seed=seed)[0].tolist()] for seed in range(1, 5)]
    count: list[int] = []
    with reading(model):
        answers(model, prompts, 3, count.append)
    assert sum(count) == tokens_to_read(model, prompts)
    assert 205 + 3 * 1 <= sum(count) <= 205 + 3 * 5


def test_a_window_that_slid_cannot_go_back(small_pieces: None) -> None:
    """Keys that fell out of a window are gone: the next prompt is read from its beginning."""
    model = build_model("mistral", sliding_window=24).eval()
    shared = texts(1, 90)[0].tolist()
    count: list[int] = []
    with reading(model):
        answers(model, [[*shared, 5], [*shared, 6]], 2, count.append)
    assert sum(count) == 2 * 91


def test_where_positions_end() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    assert position_limit(build_model("gpt2")) == 512
    assert position_limit(build_model("llama")) is None
    common = {"vocab_size": 99, "hidden_size": 32, "num_attention_heads": 4}
    bloom = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", n_layer=1, **common))
    assert position_limit(bloom) is None  # distances, no positions
    opt = AutoConfig.for_model(
        "opt", num_hidden_layers=1, ffn_dim=32, max_position_embeddings=77, word_embed_proj_dim=32, **common
    )
    assert position_limit(AutoModelForCausalLM.from_config(opt)) == 77
