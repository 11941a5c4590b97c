"""Batches hold every token once, and no label crosses from one row to the next."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.batching import RowOrder, flatten, pad
from alignkit.data.rows import Encoded

ROWS = [Encoded([1, 5, 6, 2], [-100, -100, 6, 2], "a line 1"), Encoded([1, 7, 2], [-100, 7, 2], "a line 2")]
DICTS = [{"input_ids": row.input_ids, "labels": row.labels, "where": row.where} for row in ROWS]


def test_rows_laid_end_to_end():
    for rows in (ROWS, DICTS):
        batch = flatten()(rows)
        assert batch["input_ids"].tolist() == [[1, 5, 6, 2, 1, 7, 2]]
        assert batch["labels"].tolist() == [[-100, -100, 6, 2, -100, 7, 2]]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
        assert batch["document_lengths"] == [4, 3]
        assert batch["rows"] == ["a line 1", "a line 2"]


def test_first_token_of_a_document_is_never_a_target():
    rows = [{"input_ids": [3, 4], "labels": [3, 4]}, {"input_ids": [5, 6], "labels": [5, 6]}]
    assert flatten()(rows)["labels"].tolist() == [[-100, 4, -100, 6]]
    assert pad(0)(rows)["labels"].tolist() == [[-100, 4], [-100, 6]]


def test_padding_of_a_flat_batch_is_a_document_of_its_own():
    batch = flatten(pad_id=9, pad_to_multiple_of=8)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2, 1, 7, 2, 9]]
    assert batch["labels"][0, -1] == -100
    assert batch["document_lengths"] == [4, 3, 1]
    assert flatten(pad_to_multiple_of=7)(ROWS)["document_lengths"] == [4, 3]


def test_padded_batch_keeps_an_eos_that_is_the_pad_token():
    batch = pad(2)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 2], [1, 7, 2, 2]]
    assert batch["labels"].tolist() == [[-100, -100, 6, 2], [-100, 7, 2, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["rows"] == ["a line 1", "a line 2"]
    assert pad(2, pad_to_multiple_of=8)(ROWS)["input_ids"].shape == (2, 8)


def test_the_rows_of_a_block_are_documents_like_all_others():
    block = [[ROWS[0], ROWS[1]], [DICTS[1]]]
    batch, plain = flatten()(block), flatten()([ROWS[0], ROWS[1], ROWS[1]])
    assert batch["document_lengths"] == [4, 3, 3]
    assert batch["rows"] == ["a line 1", "a line 2", "a line 2"]
    for name in ("input_ids", "labels", "position_ids"):
        assert batch[name].tolist() == plain[name].tolist()
    assert pad(0)(block)["input_ids"].tolist() == [[1, 5, 6, 2], [1, 7, 2, 0], [1, 7, 2, 0]]


def test_weights_are_given_where_some_row_has_them():
    weighted = Encoded([1, 5, 6, 2], [-100, -100, 6, 2], "a", weights=[0.0, 0.0, 0.5, 2.0])
    as_mapping = {"input_ids": [1, 5, 6, 2], "labels": [-100, -100, 6, 2], "weights": [9.0, 9.0, 0.5, 2.0]}
    for row in (weighted, as_mapping):
        flat, padded = flatten(pad_to_multiple_of=8)([row, ROWS[1]]), pad(0)([ROWS[1], row])
        assert flat["loss_weights"].tolist() == [[0, 0, 0.5, 2, 0, 1, 1, 0]]
        assert padded["loss_weights"].tolist() == [[0, 1, 1, 0], [0, 0, 0.5, 2]]
        assert flat["loss_weights"].dtype == padded["loss_weights"].dtype == torch.float32
        assert flat["loss_weights"].shape == flat["labels"].shape
    assert "loss_weights" not in flatten()(ROWS)
    assert "loss_weights" not in pad(0)(ROWS)


def test_rows_of_numpy_arrays_are_left_as_they_are():
    ids, labels = np.array([3, 4], dtype=np.uint16), np.array([3, 4])
    batch = flatten()([{"input_ids": ids, "labels": labels}])
    assert batch["input_ids"].tolist() == [[3, 4]]
    assert batch["input_ids"].dtype == batch["labels"].dtype == batch["position_ids"].dtype == torch.int64
    assert batch["labels"].tolist() == [[-100, 4]]
    assert labels.tolist() == [3, 4]


rows = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=6)


@given(rows, st.sampled_from([None, 4, 8]))
def test_packing_and_unpacking_lose_nothing(texts, multiple):
    features = [Encoded(ids, [-100, *ids[1:]], str(n)) for n, ids in enumerate(texts)]
    flat, padded = flatten(pad_to_multiple_of=multiple)(features), pad(0, pad_to_multiple_of=multiple)(features)
    assert sum(flat["document_lengths"]) == flat["input_ids"].shape[1] == flat["labels"].shape[1]
    documents = torch.split(flat["input_ids"][0], flat["document_lengths"])
    for number, ids in enumerate(texts):
        assert documents[number].tolist() == ids
        assert padded["input_ids"][number][padded["attention_mask"][number] == 1].tolist() == ids
    assert (flat["labels"] != -100).sum() == (padded["labels"] != -100).sum() == sum(len(ids) - 1 for ids in texts)


@given(st.lists(st.integers(1, 500), max_size=200), st.integers(1, 9), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_every_row_once_and_depends_on_seed_and_epoch_alone(lengths, batch, epoch, grouped):
    def order(seed):
        sampler = RowOrder(lengths, seed=seed, batch=batch, group_by_length=grouped)
        sampler.set_epoch(epoch)
        assert len(sampler) == len(lengths)
        return list(sampler)

    assert sorted(order(3)) == list(range(len(lengths)))
    assert order(3) == order(3)


def test_epochs_and_seeds_differ():
    for grouped in (False, True):
        orders = []
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            sampler = RowOrder(list(range(100)), seed=seed, batch=4, group_by_length=grouped)
            sampler.set_epoch(epoch)
            orders.append(tuple(sampler))
        assert len(set(orders)) == 3


def test_grouping_saves_padding_and_begins_with_the_longest():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 1000, (803,), generator=generator).tolist()

    def padding(grouped):
        order = list(RowOrder(lengths, seed=1, batch=8, group_by_length=grouped))
        batches = [[lengths[row] for row in order[at : at + 8]] for at in range(0, len(order), 8)]
        if grouped:
            assert max(lengths) in batches[0]
            firsts = [batch[0] for batch in batches]
            assert firsts != sorted(firsts, reverse=True)  # lengths go up and down over the epoch
        return sum(len(batch) * max(batch) - sum(batch) for batch in batches)

    assert padding(True) < 0.1 * padding(False)


def test_the_order_of_many_rows_takes_arrays_and_gives_plain_numbers():
    lengths = np.random.default_rng(0).integers(1, 1024, 300_001).astype(np.int32)
    for grouped in (False, True):
        sampler = RowOrder(lengths, seed=1, batch=8, group_by_length=grouped)
        assert type(next(iter(sampler))) is int
        assert (np.sort(sampler.order()) == np.arange(len(lengths))).all()
        assert list(sampler)[:1000] == sampler.order()[:1000].tolist()
