"""Best-fit packing loses nothing, wastes little, and changes no row's loss."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from alignkit.data.batching import flatten, pad
from alignkit.data.mixing.packing import best_fit, by_length, padding, padding_report
from alignkit.data.rows import Encoded
from alignkit.models.attention import use_varlen
from alignkit.training.head import install_scoring_head
from tests.tiny import build_model

CAPACITY = 24
lengths_of_rows = st.lists(st.integers(1, CAPACITY), max_size=60)


def by_hand(lengths, capacity):
    """Rooms left by best-fit decreasing, one row at a time, every block looked at."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@given(lengths_of_rows, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_blocks_are_those_of_best_fit_decreasing_and_hold_every_row_once(lengths, seed):
    blocks = best_fit(lengths, CAPACITY, seed=seed)
    assert sorted(row for block in blocks for row in block.tolist()) == list(range(len(lengths)))
    assert blocks.sizes.tolist() == [sum(lengths[row] for row in block) for block in blocks]
    assert all(len(block) for block in blocks)
    assert sorted(CAPACITY - blocks.sizes) == by_hand(lengths, CAPACITY)
    again = best_fit(np.array(lengths, dtype=np.int32), CAPACITY, seed=seed)
    assert (again.rows.tolist(), again.offsets.tolist()) == (blocks.rows.tolist(), blocks.offsets.tolist())


def test_rows_are_never_cut():
    for lengths in ([3, 25], [0, 4]):
        with pytest.raises(ValueError, match="do not fit"):
            best_fit(lengths, CAPACITY)
    with pytest.raises(IndexError):
        best_fit([3], CAPACITY)[1]


def test_neighbours_of_one_length_do_not_fill_a_block_together():
    first, second = best_fit([8] * 300, 24, seed=1), best_fit([8] * 300, 24, seed=2)
    assert first.rows.tolist() != second.rows.tolist()
    assert sum(int(np.ptp(block)) < 10 for block in first) < 20


def test_a_hundred_thousand_rows_fill_their_blocks():
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 0.8, 100_000), 4, 1024).astype(np.int32)
    blocks = best_fit(lengths, 1024)
    assert len(np.unique(blocks.rows)) == 100_000
    assert blocks.fill > 0.99
    assert len(blocks) <= lengths.sum() / 1024 * 1.01 + 1


def test_padding_is_counted():
    lengths = np.array([4, 1, 2, 8, 3])
    assert padding(lengths, np.arange(5), 2) == pytest.approx(1 - 18 / (8 + 16 + 3))
    assert padding(lengths, np.array([3, 0, 4, 2, 1]), 2) == pytest.approx(1 - 18 / (16 + 6 + 1))
    assert padding(lengths, np.arange(0), 2) == 0


@given(st.lists(st.integers(1, 30), max_size=900), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_windows_are_sorted_by_length(lengths, batch):
    order = np.random.default_rng(0).permutation(len(lengths))
    expected = []
    for start in range(0, len(order), batch * 50):
        expected += sorted(order[start : start + batch * 50].tolist(), key=lambda row: -lengths[row])
    assert by_length(order, np.array(lengths, dtype=np.int32), batch).tolist() == expected


def test_the_report_compares_the_layouts():
    lengths = [10, 6, 6, 4, 2] * 40
    lines = padding_report(lengths, 4, best_fit(lengths, 16))
    assert lines[0] == ("best-fit packing: 200 rows in 70 blocks of at most 16 tokens, 100.0% full, 0.0% left empty")
    assert lines[1].startswith("padded in batches of 4 random rows, ")
    assert lines[2].startswith("padded in batches of 4 rows of similar length (data.group_by_length): ")
    shares = [float(line.split("%")[0].split()[-1]) for line in lines[1:]]
    assert shares[0] > 25 > 5 > shares[1]
    assert padding_report(lengths, 4) == lines[1:]
    assert padding_report([], 4) == []


def random_rows(lengths, weighted, seed=0):
    """Rows whose first part carries no loss; every third has weights, if any."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, length in enumerate(lengths):
        ids = rng.integers(3, 259, length).tolist()
        labels = [-100 if at < max(1, length // 3) else token for at, token in enumerate(ids)]
        weights = [0.0 if label == -100 else float(rng.uniform(0.2, 2)) for label in labels]
        rows.append(Encoded(ids, labels, f"row {number}", weights if weighted and number % 3 == 0 else None))
    return rows


@given(lengths_of_rows.filter(bool), st.booleans(), st.sampled_from([None, 8]))
@settings(max_examples=60, deadline=None)
def test_packing_and_unpacking_lose_nothing(lengths, weighted, multiple):
    rows = random_rows(lengths, weighted)
    blocks = best_fit(lengths, CAPACITY)
    seen = []
    for block in blocks:
        batch = flatten(pad_to_multiple_of=multiple)([[rows[int(row)] for row in block]])
        own = batch["document_lengths"]
        assert sum(own) == batch["input_ids"].shape[1]
        ids, labels = (batch[name][0].split(own) for name in ("input_ids", "labels"))
        positions = batch["position_ids"][0].split(own)
        weights = batch["loss_weights"][0].split(own) if "loss_weights" in batch else [None] * len(own)
        for number, row in enumerate(block):
            given_row = rows[int(row)]
            assert batch["rows"][number] == given_row.where
            assert ids[number].tolist() == given_row.input_ids
            assert labels[number].tolist() == given_row.labels
            assert positions[number].tolist() == list(range(len(given_row)))
            if given_row.weights:
                assert weights[number].tolist() == pytest.approx(given_row.weights)
            elif weights[number] is not None:
                assert weights[number].tolist() == [float(label != -100) for label in given_row.labels]
            seen.append(int(row))
    assert sorted(seen) == list(range(len(rows)))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_a_packed_document_is_that_of_the_document_alone(kind, weighted):
    rows = random_rows([5, 17, 9, 24, 2, 9, 13, 3, 21, 8], weighted)
    plain = build_model(kind).eval()
    for parameter in plain.parameters():  # the default initialisation hides what a leak would do
        if parameter.ndim == 2:
            parameter.data.mul_(4)
    packed_model = copy.deepcopy(plain)
    use_varlen(packed_model)
    install_scoring_head(packed_model)

    alone = []
    for row in rows:  # the definition, with transformers' own model
        logits = plain(torch.tensor([row.input_ids])).logits[0, :-1]
        losses = F.cross_entropy(logits, torch.tensor(row.labels[1:]), ignore_index=-100, reduction="none")
        weights = torch.tensor(row.weights[1:]) if row.weights else torch.ones(len(row) - 1)
        alone.append(float((losses * weights).sum()))

    blocks = best_fit([len(row) for row in rows], 32)
    assert len(blocks) < len(rows) / 2
    order = np.concatenate(list(blocks)).tolist()
    batches = [
        flatten()([[rows[int(row)] for row in block] for block in blocks]),
        pad(0)([[rows[int(row)] for row in block] for block in blocks]),
    ]
    assert ("loss_weights" in batches[0]) == weighted
    for batch in batches:
        assert batch.pop("rows") == [f"row {row}" for row in order]
        given_labels = batch.pop("labels")
        out = packed_model(**batch, labels=given_labels, fused_lm_head=True)
        each = -F.pad(out.log_probs, (1, 0))  # back to the tokens' places
        if "document_lengths" in batch:
            each = torch.nn.utils.rnn.pad_sequence(each[0].split(batch["document_lengths"]), batch_first=True)
        expected = torch.tensor([alone[row] for row in order])
        torch.testing.assert_close(each.sum(1), expected, rtol=1e-5, atol=1e-5)
