"""Scores of rows laid end to end are those that transformers gives each row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.sections import Model
from alignkit.models.classifier import load_classifier
from alignkit.rewards.classified import Scorer, can_pack
from tests.rewards.test_models import classifier


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """By attention: the model as a reward has it, and as transformers loads it."""
    from transformers import AutoModelForSequenceClassification

    place = classifier(tmp_path_factory.mktemp("models") / "rm")
    plain = AutoModelForSequenceClassification.from_pretrained(place).eval()
    return {
        attention: (
            load_classifier(Model(name=str(place), dtype="fp32", attention=attention), device="cpu").model,
            plain,
        )
        for attention in ("sdpa", "eager")
    }


def alone(model: Any, row: list[int]) -> float:
    with torch.no_grad():
        return float(model(torch.tensor([row])).logits[0, 0])


ROWS = st.lists(st.lists(st.integers(1, 258), min_size=1, max_size=20), min_size=1, max_size=9)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@settings(max_examples=15, deadline=None)
@given(rows=ROWS, batch=st.integers(1, 4))
def test_each_row_gets_its_own_score(
    models: dict[str, tuple[Any, Any]], attention: str, rows: list[list[int]], batch: int
) -> None:
    model, plain = models[attention]
    assert can_pack(model) == (attention == "sdpa")
    assert Scorer(model, batch=batch)(rows) == pytest.approx([alone(plain, row) for row in rows], abs=2e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_pad_tokens_at_the_end_are_not_read(models: dict[str, tuple[Any, Any]], attention: str) -> None:
    model, plain = models[attention]
    rows = [[5, 6, 0, 0], [7, 0, 8], [9]]
    assert Scorer(model, batch=8)(rows) == pytest.approx([alone(plain, row) for row in rows], abs=2e-5)


def test_packing_spends_no_place_on_padding(models: dict[str, tuple[Any, Any]]) -> None:
    model, _ = models["sdpa"]
    seen: list[int] = []
    handle = model.base_model.layers[0].register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))
    scorer = Scorer(model, batch=3)
    scorer([[1]])
    seen.clear()
    scorer([[3] * 20, [4], [5] * 7])
    handle.remove()
    assert seen == [28]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_without_a_pad_token(models: dict[str, tuple[Any, Any]], attention: str) -> None:
    model, plain = models[attention]
    rows = [[5, 6], [7, 9, 8], [9]]
    kept = model.config.pad_token_id
    model.config.pad_token_id = None
    try:
        found = Scorer(model, batch=8)(rows)
    finally:
        model.config.pad_token_id = kept
    assert found == pytest.approx([alone(plain, row) for row in rows], abs=2e-5)


def test_the_model_comes_out_as_it_was(models: dict[str, tuple[Any, Any]]) -> None:
    model, _ = models["sdpa"]
    model.train()
    Scorer(model, batch=2)([[3, 4], [5]])
    assert model.training
    model.eval()
