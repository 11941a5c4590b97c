"""Live teachers hand out what their heads say of the labelled positions, however the batch lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignkit.config.sections import Model
from alignkit.data.batching import flatten, pad
from alignkit.errors import RequestError
from alignkit.teachers.live import LiveTeacher, MeanTeacher, require_one_vocabulary
from alignkit.teachers.teacher import rows_of, with_targets
from alignkit.training.targets import HeadTargets, MeanTargets
from tests.tiny import build_tokenizer, save_tiny


def rows(seed: int = 0, count: int = 4) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        ids = rng.integers(3, 250, rng.integers(4, 12))
        labelled = rng.random(len(ids)) < 0.5
        found.append({"input_ids": ids.tolist(), "labels": np.where(labelled, ids, -100).tolist()})
    found[-1]["labels"] = [-100] * len(found[-1]["labels"])  # a row without a label takes no place
    return found


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LiveTeacher:
    place = save_tiny(tmp_path_factory.mktemp("t") / "m", request.param, initializer_range=0.3)
    return LiveTeacher.of(Model(name=str(place), dtype="fp32"))


def expected(teacher: LiveTeacher, given: list[dict[str, Any]]) -> np.ndarray:
    """Log-probabilities at the labelled positions, each row read alone by the plain model."""
    found = []
    for row in given:
        with torch.no_grad():
            whole = teacher.model(torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1).numpy()
        found += [whole[at - 1] for at in range(1, len(row["labels"])) if row["labels"][at] != -100]
    return np.array(found)


def said(targets: HeadTargets) -> np.ndarray:
    logits = targets.hidden @ targets.weight.T
    return (logits if targets.bias is None else logits + targets.bias).double().log_softmax(-1).numpy()


@pytest.mark.parametrize("collate", [flatten(), pad(0)], ids=["flattened", "padded"])
def test_targets_are_the_models_own(teacher: LiveTeacher, collate: Any) -> None:
    found = teacher.targets(collate(rows()))
    assert said(found) == pytest.approx(expected(teacher, rows()), abs=1e-5)
    assert not found.hidden.requires_grad and not found.weight.requires_grad
    assert teacher.vocabulary == 259 and len(found.weight) == 259


def test_rows_end_to_end_for_a_model_that_would_mix_them(teacher: LiveTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets them padded, and states come back where the batch's tokens stand."""
    right, layers = teacher.states(flatten()(rows()))
    monkeypatch.setattr(teacher, "isolates", False)
    seen: list[tuple[int, ...]] = []
    hook = teacher.model.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    found, padded = teacher.states(flatten()(rows()))
    hook.remove()
    assert seen[0][0] == 4
    assert said(found) == pytest.approx(said(right), abs=1e-5)
    assert len(layers) == len(padded) == 3
    for one, other in zip(layers, padded, strict=True):
        assert one.shape == other.shape == (1, sum(len(row["input_ids"]) for row in rows()), 32)
        assert one.numpy() == pytest.approx(other.numpy(), abs=1e-4)


def test_the_students_autocast_does_not_reach_it(teacher: LiveTeacher) -> None:
    plain = teacher.targets(pad(0)(rows()))
    with torch.autocast("cpu", torch.bfloat16):
        cast = teacher.targets(pad(0)(rows()))
    assert cast.hidden.dtype == torch.float32 and torch.equal(cast.hidden, plain.hidden)


def test_nothing_of_it_is_trained(teacher: LiveTeacher) -> None:
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher.parameters == sum(p.numel() for p in teacher.model.parameters())


def test_the_mean_of_several(tmp_path: Path) -> None:
    """Weights in any scale; a wider head is cut to the tokens that both have."""
    first, second = (
        LiveTeacher.of(Model(name=str(save_tiny(tmp_path / str(v), seed=v, vocab=v)), dtype="fp32")) for v in (259, 264)
    )
    mean = MeanTeacher([first, second], [3, 1])
    found = mean.targets(pad(0)(rows()))
    assert isinstance(found, MeanTargets) and found.weights == (0.75, 0.25)
    assert mean.vocabulary == 259 and [len(head.weight) for head in found.heads] == [259, 259]
    one, other = (np.exp(expected(teacher, rows())[:, :259]) for teacher in (first, second))
    other /= other.sum(-1, keepdims=True)
    together = sum(w * np.exp(said(head)) for w, head in zip(found.weights, found.heads, strict=True))
    assert together == pytest.approx(0.75 * one + 0.25 * other, abs=1e-6)


def test_teachers_of_other_vocabularies_are_not_averaged() -> None:
    other = build_tokenizer()
    other.add_tokens(["<more>"])
    with pytest.raises(RequestError, match=r"teachers\[1\]: has another vocabulary .* id 259 is not '<more>' to both"):
        require_one_vocabulary([build_tokenizer(), build_tokenizer(), other], "teachers")


def test_rows_of_a_batch() -> None:
    given = rows()
    for collate in (flatten(), pad(7), flatten(pad_to_multiple_of=16)):
        found = rows_of(collate(given))[: len(given)]
        assert [row.ids.tolist() for row in found] == [row["input_ids"] for row in given]
        for row, one in zip(found, given, strict=True):
            assert row.labelled.tolist() == [False, *(label != -100 for label in one["labels"][1:])]


def test_targets_beside_a_batch(teacher: LiveTeacher) -> None:
    batch = with_targets(pad(0), teacher)(rows())  # type: ignore[arg-type]
    assert set(pad(0)(rows())) < set(batch)
    assert torch.equal(batch["targets"].hidden, teacher.targets(pad(0)(rows())).hidden)
