"""Rows of a schedule: nothing is lost or cut that should not be, every place in the order is fixed, positions skip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alignkit.data.rows import UNTRAINED, Encoded
from alignkit.stages.extend_context.curriculum import Curriculum, Window, curriculum_collator, cut_rows, part_of
from alignkit.stages.extend_context.positions import plain_positions, skipped_positions


def text(length: int, start: int = 0) -> Encoded:
    ids = [(start + n) % 251 + 3 for n in range(length)]
    return Encoded(ids, [UNTRAINED, *ids[1:]], f"text of {length}")


def chat(length: int) -> Encoded:
    ids = list(range(3, 3 + length))
    return Encoded(ids, [UNTRAINED] * (length - 4) + ids[-4:], f"chat of {length}")


def lengths(rows: list[Encoded]) -> NDArray[np.int64]:
    return np.array([len(row) for row in rows])


@given(
    st.integers(1, 80), st.integers(2, 6), st.integers(0, 400), st.integers(0, 2**32),
)  # fmt: skip
def test_skipped_positions_rise_stay_inside_and_keep_chunks_whole(
    length: int, chunks: int, further: int, seed: int
) -> None:
    target = length + further
    found = skipped_positions(length, target, chunks, np.random.default_rng(seed))
    assert len(found) == length and found[0] == 0 and found[-1] < target
    steps = np.diff(found)
    assert (steps >= 1).all() and (steps > 1).sum() <= chunks - 1


def test_skips_cover_the_window_and_every_distance_is_drawn() -> None:
    generator = np.random.default_rng(0)
    last = [int(skipped_positions(64, 512, 2, generator)[-1]) for _ in range(4000)]
    # u_1 is uniform on 0 … 448, so the last position is uniform on 63 … 511.
    assert min(last) == 63 and max(last) == 511
    assert abs(np.mean(last) - (63 + 511) / 2) < 10


def test_rows_that_fit_stay_whole_and_longer_texts_are_cut_without_loss() -> None:
    rows = [text(10), text(70), chat(20), chat(50), text(33)]
    cuts, left_out = cut_rows(rows, lengths(rows), 32)
    assert left_out == 1  # the chat of 50 would lose its question or its answer
    assert [(cut.row, cut.start, cut.end) for cut in cuts] == [
        (0, 0, 10),
        (1, 0, 32),
        (1, 32, 64),
        (1, 64, 70),
        (2, 0, 20),
        (4, 0, 32),
    ]  # fmt: skip -- the last token of 33 alone would predict nothing
    pieces = [rows[1].input_ids[cut.start : cut.end] for cut in cuts if cut.row == 1]
    assert [token for piece in pieces for token in piece] == rows[1].input_ids


def curriculum(seed: int = 0) -> Curriculum:
    rows = [text(length, length) for length in (90, 17, 64, 5, 33, 70, 12, 41)]
    windows = [Window(32, 32, 32, None, 5), Window(64, 64, 64, None, None)]
    parts = [part_of(rows, lengths(rows), window, batch=2, epochs=2.0, pack=True, seed=seed) for window in windows]
    return Curriculum(rows, parts, batch=2, seed=seed)


def test_every_pass_takes_every_packed_row_once_and_windows_follow_one_another() -> None:
    made = curriculum()
    second = made.parts[1]
    assert made.parts[0].steps == 5 and second.steps == -(-2 * len(second.blocks) // 2)
    draws = [made[n] for n in range(len(made))]
    assert [draw.part for draw in draws] == [0] * 10 + [1] * (2 * second.steps)
    passes = draws[10 : 10 + len(second.blocks)]
    seen = sorted(token for draw in passes for document in draw.documents for token in document.input_ids)
    assert seen == sorted(token for cut in second.cuts for token in made.rows[cut.row].input_ids[cut.start : cut.end])
    assert [sum(len(one) for one in draw.documents) for draw in draws] == made.lengths.tolist()
    assert [made.part_at(step) for step in (0, 4, 5, made.steps - 1, made.steps)] == [0, 0, 1, 1, 1]


def test_the_order_is_the_seeds_alone() -> None:
    def order(seed: int) -> list[list[str]]:
        made = curriculum(seed)
        return [[document.where for document in made[n].documents] for n in range(len(made))]

    assert order(1) == order(1) != order(2)


def test_a_window_that_nothing_fits_into_is_an_error() -> None:
    rows = [chat(50)]
    with pytest.raises(ValueError, match="no row fits into 32"):
        part_of(rows, lengths(rows), Window(32, 32, 32, None, 1), batch=1, epochs=1, pack=True, seed=0)


def test_isolated_documents_keep_their_own_positions_and_joined_ones_share_them() -> None:
    made = curriculum()
    draw = next(made[n] for n in range(len(made)) if len(made[n].documents) > 1)
    own = [len(document) for document in draw.documents]
    isolated = curriculum_collator(made, joined=False, chunks=None)([draw])
    assert isolated["document_lengths"] == own
    assert isolated["position_ids"][0].tolist() == plain_positions(own).tolist() != list(range(sum(own)))
    joined = curriculum_collator(made, joined=True, chunks=None)([draw, draw])
    assert joined["document_lengths"] == [sum(own)] * 2
    assert joined["position_ids"][0].tolist() == 2 * list(range(sum(own)))
    assert joined["input_ids"].shape == joined["labels"].shape == (1, 2 * sum(own))


def test_skips_are_drawn_anew_at_every_place_and_again_the_same_after_a_resume() -> None:
    rows = [text(32)]
    made = Curriculum(
        rows,
        [part_of(rows, lengths(rows), Window(256, 32, 32, None, 6), batch=1, epochs=1, pack=True, seed=0)],
        batch=1,
        seed=3,
    )
    collate = curriculum_collator(made, joined=False, chunks=2)
    drawn = [collate([made[n]])["position_ids"][0].tolist() for n in range(6)]
    assert len({tuple(one) for one in drawn}) > 4
    assert max(one[-1] for one in drawn) > 64
    assert drawn[4] == collate([made[4]])["position_ids"][0].tolist()
