"""Two tokenizers: one but for padding, or matched by the bytes of their tokens; spans of one text in both."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import RequestError
from alignkit.stages.distill.losses.spans import align, span_divergence
from alignkit.stages.distill.losses.vocabularies import END, in_common, matched_tokens, token_bytes
from tests.tiny import build_tokenizer

TEXT = "Naïve café: 12 €, 東京!\n\tnew  line 🙂 end"


def byte_pairs(words: str = TEXT * 3, size: int = 300) -> Any:
    """A byte-level tokenizer with merges learned from some text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["</s>", "<pad>"]
    tokenizer.train_from_iterator(
        [words],
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def sentence_pieces() -> Any:
    """A tokenizer as SentencePiece makes them: a mark for a space, single bytes as a last resort."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted(set("▁Naivecf:12!nwlied,"))
    vocabulary = {piece: i for i, piece in enumerate([*pieces, *letters, "ne", "new", "▁new", "li", "line"])}
    merges = [("n", "e"), ("ne", "w"), ("▁", "new"), ("l", "i"), ("li", "ne")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@pytest.mark.parametrize("make", [build_tokenizer, byte_pairs, sentence_pieces])
def test_the_bytes_of_tokens_make_the_text(make: Any) -> None:
    tokenizer = make()
    table = token_bytes(tokenizer)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert b"".join(table[i] for i in ids).decode().removeprefix(" ") == TEXT
    assert len(table) == len(tokenizer) and table[tokenizer.eos_token_id] == END
    other = token_bytes(tokenizer, ends=[5])
    assert other[5] == END and other[tokenizer.eos_token_id] != END


def test_tokens_match_where_their_bytes_do() -> None:
    ours, theirs = sentence_pieces(), byte_pairs()
    a, b = token_bytes(ours), token_bytes(theirs)
    student, teacher = matched_tokens(a, b)
    pairs = dict(zip(student.tolist(), teacher.tolist(), strict=True))
    assert all(a[i] == b[j] for i, j in pairs.items()) and len(set(pairs.values())) == len(pairs)
    assert pairs[ours.eos_token_id] == theirs.eos_token_id
    # A single byte stands in the lowest id that reads it.
    assert pairs[ours.convert_tokens_to_ids("<0xE6>")] == theirs.convert_tokens_to_ids("æ")
    assert set(a.values()) & set(b.values()) == {a[i] for i in pairs}
    assert ours.unk_token_id not in pairs and theirs.pad_token_id not in pairs.values()


def test_vocabularies_that_differ_by_padding_are_one() -> None:
    one, other = byte_pairs(), byte_pairs()
    assert in_common(one, other).difference is None and in_common(one, other).tokens == len(one)
    other.add_special_tokens({"pad_token": "<|pad|>"})
    found = in_common(one, other)
    assert found.difference is None and found.tokens == len(one)
    assert in_common(other, one) == found


@pytest.mark.parametrize("change", ["swapped", "added", "other"])
def test_vocabularies_that_differ_otherwise_are_two(change: str) -> None:
    one = byte_pairs()
    if change == "added":
        other = byte_pairs()
        other.add_tokens(["<tool>"])
        at, text = len(one), "'<tool>' for the teacher"
    elif change == "other":
        other, at, text = build_tokenizer(), 0, "'<|endoftext|>' for the teacher"
    else:
        import json

        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerFast

        tree = json.loads(one.backend_tokenizer.to_str())
        words = tree["model"]["vocab"]
        first, second = one.convert_ids_to_tokens([100, 101])
        words[first], words[second] = words[second], words[first]
        other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tree)), pad_token="<pad>")
        at, text = 100, f"{first!r} for the student and {second!r} for the teacher"
    found = in_common(one, other)
    assert found.tokens == at and found.difference is not None and text in found.difference


def test_a_tokenizer_that_does_not_tell_its_bytes_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(RequestError, match=r"distill\.tokenizers=uld"):
        token_bytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))


def cut(text: bytes, places: list[int]) -> list[bytes]:
    stops = sorted({place for place in places if 0 < place < len(text)})
    return [text[a:b] for a, b in zip([0, *stops], [*stops, len(text)], strict=True)]


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(min_size=1, max_size=30).map(str.encode).filter(lambda t: not t.startswith(b" ")),
    a=st.lists(st.integers(0, 60), max_size=20),
    b=st.lists(st.integers(0, 60), max_size=20),
)
def test_spans_are_the_shortest_that_begin_and_end_together(text: bytes, a: list[int], b: list[int]) -> None:
    student, teacher = cut(text, a), cut(text, b)
    spans = align(student, teacher)
    assert spans[0].student[0] == spans[0].teacher[0] == 0
    assert spans[-1].student[1] == len(student) and spans[-1].teacher[1] == len(teacher)
    for one, after in pairwise(spans):
        assert one.student[1] == after.student[0] and one.teacher[1] == after.teacher[0]
    for span in spans:
        mine, theirs = student[slice(*span.student)], teacher[slice(*span.teacher)]
        assert b"".join(mine) == b"".join(theirs)
        inner = {len(b"".join(mine[:i])) for i in range(1, len(mine))}
        assert not inner & {len(b"".join(theirs[:i])) for i in range(1, len(theirs))}
        assert span.single == (len(mine) == len(theirs) == 1)


def test_spans_end_where_texts_part_and_a_first_space_is_no_difference() -> None:
    spans = align([b"ab", b"c", b"d"], [b"a", b"bc", b"e"])
    assert [(s.student, s.teacher) for s in spans] == [((0, 2), (0, 2))]
    assert align([b"x"], [b"y"]) == []
    spaced = align([b" new", b" line"], [b"new", b" li", b"ne"])
    assert [(s.student, s.teacher) for s in spaced] == [((0, 1), (0, 1)), ((1, 2), (1, 3))]
    # A token without bytes belongs to what follows.
    assert align([b"", b"ab"], [b"ab"])[0].student == (0, 2)


def test_real_tokenizers_are_aligned_over_a_whole_text() -> None:
    ours, theirs = sentence_pieces(), byte_pairs("cafés new lines, newlines " * 3, size=268)
    a, b = ours(TEXT, add_special_tokens=False)["input_ids"], theirs(TEXT)["input_ids"]
    first, second = token_bytes(ours), token_bytes(theirs)
    spans = align([first[i] for i in a], [second[i] for i in b])
    assert spans[-1].student[1] == len(a) and spans[-1].teacher[1] == len(b)
    assert 5 < len(spans) < min(len(a), len(b))


def test_the_text_of_a_span_is_compared_by_the_chain_rule() -> None:
    log_probs = torch.tensor([-0.5, -1.0, -0.2, -2.0, -0.1], dtype=torch.float64, requires_grad=True)
    span, teacher = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([-0.3, -0.2, -4.0], dtype=torch.float64)
    found = span_divergence(log_probs, span, teacher)
    p, q = np.exp([-1.5, -0.2, -2.1]), np.exp(teacher.numpy())
    expected = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    assert np.allclose(found.detach().numpy(), expected) and abs(found[1].item()) < 1e-12
    found.sum().backward()
    assert log_probs.grad is not None
    slope = (p - q) / (1 - p)  # by the log-probability of the text, and so by each of its tokens'
    assert np.allclose(log_probs.grad.numpy(), slope[[0, 0, 1, 2, 2]])
    certain = span_divergence(torch.zeros(1), torch.tensor([0]), torch.tensor([0.0]))
    assert math.isfinite(certain.item()) and abs(certain.item()) < 1e-5
