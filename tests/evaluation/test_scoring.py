"""Held-out loss against a plain computation, however the rows are batched."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import pytest

from tests.tiny import build_model


@dataclass
class Row:
    input_ids: list[int]
    labels: list[int]


def some_rows(count: int = 9) -> list[Row]:
    """Rows whose labelled stretches lie anywhere: at the end, in the middle, on the very first token."""
    rng = random.Random(3)
    rows = []
    for number in range(count):
        ids = [rng.randrange(3, 259) for _ in range(rng.randint(4, 50))]
        labels = [token if rng.random() < 0.3 else -100 for token in ids]
        labels[-1] = ids[-1]
        if number % 3 == 0:
            labels[0] = ids[0]
        rows.append(Row(ids, labels))
    return rows


def plain_loss(model: Any, rows: list[Row]) -> tuple[float, int]:
    """One row at a time, all logits, one label at a time, in numpy."""
    import numpy as np
    import torch

    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].double().numpy()
        for position in range(1, len(row.labels)):
            if row.labels[position] != -100:
                scores = logits[position - 1]
                total += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[row.labels[position]]
                count += 1
    return total / count, count


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("tokens_per_batch", [1, 64, 10_000])
def test_equals_the_plain_computation(kind: str, tokens_per_batch: int) -> None:
    from alignkit.evaluation.scoring import held_out_loss

    changes = {"sliding_window": 8} if kind == "mistral" else {}
    model = build_model(kind, **changes).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)
    rows = some_rows()
    expected, count = plain_loss(model, rows)
    found = held_out_loss(model, rows, pad_id=0, tokens_per_batch=tokens_per_batch)
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    assert found["labelled_tokens"] == count
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)


def test_the_head_sees_labelled_positions_only() -> None:
    from alignkit.evaluation.scoring import held_out_loss

    model = build_model("llama").eval()
    sizes: list[int] = []
    model.lm_head.register_forward_hook(lambda _module, inputs, _output: sizes.append(inputs[0].shape[1]))
    ids = list(range(3, 43))
    held_out_loss(model, [Row(ids, [-100] * 36 + ids[36:]), Row(ids[5:], [-100] * 33 + ids[38:])], pad_id=0)
    assert sizes == [4]


def test_dropout_is_off_and_comes_back() -> None:
    from alignkit.evaluation.scoring import held_out_loss

    model = build_model("llama", attention_dropout=0.5)
    model.train()
    first, second = (held_out_loss(model, some_rows(), pad_id=0)["loss"] for _ in range(2))
    assert first == second
    assert all(module.training for module in model.modules())


def test_rows_without_a_label_have_no_mean() -> None:
    from alignkit.evaluation.scoring import held_out_loss

    with pytest.raises(ValueError, match="no labelled token"):
        held_out_loss(build_model("llama"), [Row([4, 5], [4, -100])], pad_id=0)


def test_perplexity_of_a_hopeless_model_is_infinite() -> None:
    from alignkit.evaluation.scoring import perplexity

    assert perplexity(1000.0) == math.inf
    assert math.isnan(perplexity(math.nan))
