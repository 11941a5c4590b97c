"""Rows that would teach the wrong thing are named, whatever made them."""

from __future__ import annotations

import pytest

from alignkit.data.encoding.rendering import Renderer
from alignkit.data.encoding.tokenizing import Encoder
from alignkit.data.encoding.verify import Verifier, opener
from alignkit.data.rows import UNTRAINED, Completion, Conversation
from alignkit.errors import Fault
from tests.data.families import FAMILIES, family_tokenizer
from tests.data.templates import NO_END_OF_TURN, merging_tokenizer
from tests.tiny import build_tokenizer

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


@pytest.fixture
def row():
    tokenizer = build_tokenizer()
    [row] = Encoder(tokenizer).encode(Renderer(tokenizer).render([Conversation(CHAT * 2, "a line 2")])[0])
    return row


def fault(row, *, train_on="assistant", raw_text=False):
    verifier = Verifier(build_tokenizer(), train_on)
    found = verifier.fault(row.input_ids, row.labels, row.where, raw_text)
    mask = bytes(label != UNTRAINED for label in row.labels)
    assert verifier.fault_of_mask(row.input_ids, mask, row.where, raw_text) == found
    return "" if found is None else str(found)


def test_a_right_row_has_no_fault(row):
    assert fault(row) == ""


def test_nothing_trained(row):
    row.labels = [UNTRAINED] * len(row)
    assert "a line 2: no token of the row carries loss" in fault(row)
    assert "no token of the row carries loss" in fault(row, raw_text=True)


@pytest.mark.parametrize("which", [0, 1])
def test_an_end_of_turn_that_is_not_trained(row, which):
    ends = [at for at, label in enumerate(row.labels) if label == 2]
    row.labels[ends[which]] = UNTRAINED
    assert "a line 2: an answer's end is not trained (it ends with `o`)" in fault(row)
    assert fault(row, raw_text=True) == ""  # raw text ends where it was cut


def test_a_generation_prompt_among_the_labels(row):
    first = next(at for at, label in enumerate(row.labels) if label != UNTRAINED)
    row.labels[first - 11 : first] = row.input_ids[first - 11 : first]
    assert "the generation prompt's `<|im_start|>` is among the trained tokens" in fault(row)
    assert fault(row, train_on="all") == ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weights", [None, (1, 0, 1, 0.5), (1, 1, 1, 0)])
def test_rows_that_are_trained_as_a_whole(family, weights):
    tokenizer = family_tokenizer(family)
    chat = Conversation(CHAT * 2, "x", weights=weights)
    [found] = Renderer(tokenizer, "all").render_each([chat])
    if isinstance(found, Fault):
        assert (family, weights) in [("qwen3", (1, 0, 1, 0.5))]
        return
    for row in Encoder(tokenizer).encode(found):
        assert Verifier(tokenizer, "all").fault(row.input_ids, row.labels, "x", False) is None


def test_two_bos(row):
    row.input_ids.insert(0, 1)
    row.labels.insert(0, UNTRAINED)
    assert "the row begins with `<|im_start|>` twice" in fault(row)
    assert "twice" in fault(row, raw_text=True)


def test_bos_that_the_text_and_the_tokenizer_both_write():
    tokenizer = merging_tokenizer(bos=True)
    rows = [Completion("<|im_start|>q", "a", "a line 1"), Completion("q", "a", "a line 2")]
    encoded = [Encoder(tokenizer).encode(texts)[0] for texts in Renderer(tokenizer).render(rows)]
    found = [Verifier(tokenizer).fault(row.input_ids, row.labels, row.where, False) for row in encoded]
    assert "a line 1: the row begins with `<|im_start|>` twice" in str(found[0])
    assert found[1] is None


def test_the_token_that_opens_an_answer():
    names = {
        family: None if found is None else family_tokenizer(family).convert_ids_to_tokens(found)
        for family in FAMILIES
        for found in [opener(family_tokenizer(family))]
    }
    chatml = dict.fromkeys(("chatml", "smollm2", "qwen3", "phi4"), "<|im_start|>")
    assert names == chatml | {
        "llama3": "<|start_header_id|>",
        "llama2": None,
        "mistral": None,
        "gemma": "<start_of_turn>",
        "phi3": "<|assistant|>",
        "deepseek": "<｜Assistant｜>",
        "deepseek-r1": "<｜Assistant｜>",
    }
    assert opener(build_tokenizer(NO_END_OF_TURN)) is None
    assert opener(build_tokenizer(None)) is None
