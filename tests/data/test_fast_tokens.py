"""Tokens out of the memory of words are the library's own, for every kind of text and pre-tokenizer that qualifies."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from alignkit.data.encoding import fast_tokens
from alignkit.data.encoding.fast_tokens import FastTokens
from alignkit.data.encoding.packed import token_code
from alignkit.data.encoding.qualify import qualifies
from alignkit.data.encoding.rendered import Rendered
from alignkit.data.encoding.tokenizing import Encoder

LLAMA3 = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def corpus() -> list[str]:
    rng = random.Random(0)
    words = [
        "the",
        "and",
        "don't",
        "I'll",
        "naïve",
        "Straße",
        "3,000",
        "foo_bar",
        "日本",
        "привет",
        "x=1;",
        "café",
        "(see",
    ]
    return [" ".join(rng.choices(words, k=8)) + rng.choice(["\n", "\n\n", ".\n", "  ", "!"]) for _ in range(200)]


def byte_level(pre: Any, normalizer: Any = None, **options: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def split(pattern: str) -> Any:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    return pre_tokenizers.Sequence(steps)


KINDS = {
    "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm2": lambda: byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
    "llama3": lambda: byte_level(split(LLAMA3)),
    "qwen": lambda: byte_level(split(QWEN), normalizers.NFC()),
}
_made: dict[str, Any] = {}


def tokenizer_of(kind: str) -> Any:
    if kind not in _made:
        _made[kind] = KINDS[kind]()
    return _made[kind]


WORDS = st.sampled_from(
    ["the", "don't", "I'll", "3,000.5", "e\u0301", "Å", "日本", "🎉👨\u200d👩", "a", "'s", ").", "x\n", "\ny"]
)
GAPS = st.sampled_from([" "] * 12 + ["\n", "\n\n", "  ", "   ", " \n", "\n ", "\t", "\xa0", "\u3000", "\x1c", "\r\n"])
TEXTS = st.lists(st.one_of(WORDS, GAPS, st.text(max_size=4), st.sampled_from(SPECIAL)), max_size=30).map("".join)
MEMORIES: dict[str, FastTokens] = {}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, deadline=None)
@given(text=TEXTS, cuts=st.lists(st.integers(0, 60), max_size=4))
def test_the_memory_says_what_the_library_says(kind: str, text: str, cuts: list[int]) -> None:
    tokenizer = tokenizer_of(kind)
    fast = MEMORIES.get(kind) or MEMORIES.setdefault(kind, made(tokenizer))
    fast.seen = 1  # nothing but the memory answers here
    edges = sorted({cut for cut in cuts if cut <= len(text)})
    spans = list(zip(edges[::2], edges[1::2], strict=False))
    [whole], [cut] = fast.pack([Rendered(text, None, "x")]) or [], fast.pack([Rendered(text, spans, "x")]) or []
    assert whole.encoded().input_ids == library(tokenizer, text)
    at, ids, mask = 0, [], []
    for start, end in [*spans, (len(text), len(text))]:
        for piece, trained in ((text[at:start], 0), (text[start:end], 1)):
            ids += library(tokenizer, piece)
            mask += [trained] * (len(ids) - len(mask))
        at = end
    assert cut.encoded().input_ids == ids
    assert list(cut.mask) == [0, *mask[1:]][: len(mask)]


def made(tokenizer: Any) -> FastTokens:
    fast = FastTokens.of(tokenizer, [], token_code(tokenizer))
    assert fast is not None
    return fast


def library(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_both_ways_give_the_same_row_with_spans_eos_and_weights() -> None:
    encoder = Encoder(tokenizer_of("llama3"))
    text = "<|im_start|>user\nthe cat and\nfoo<|im_end|>\n<|im_start|>assistant\nthe café don't<|im_end|>\n"
    start = text.index("the café")
    rows = [
        Rendered(text, [(start, len(text) - 1)], "a"),
        Rendered(text, [(start, len(text) - 1)], "b", span_weights=[0.5]),
        Rendered("the end and", [(7, 11)], "c", eos=True, plain=True),
        Rendered("the end", None, "d", eos=True, plain=True),
        Rendered("", None, "e", eos=True, plain=True),
    ]
    packed = encoder.pack(rows)
    assert encoder.fast is not None
    assert [row.encoded() for row in packed] == encoder.encode(rows)
    assert packed[1].encoded().weights is not None


def unlike(**changes: Any) -> Any:
    tokenizer = KINDS["gpt2"]()
    backend = tokenizer.backend_tokenizer
    for name, value in changes.items():
        setattr(backend, name, value)
    return tokenizer


def with_added(token: Any) -> Any:
    tokenizer = KINDS["gpt2"]()
    tokenizer.add_tokens([token])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        lambda: unlike(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda: unlike(pre_tokenizer=split(r"\p{L}+ \p{L}+|\s+|\S")),  # a pre-token reaches over a space
        lambda: unlike(pre_tokenizer=pre_tokenizers.Metaspace()),
        lambda: unlike(normalizer=normalizers.Strip()),
        lambda: unlike(normalizer=normalizers.Replace("a b", "c")),
        lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), dropout=0.5),
        lambda: with_added(AddedToken("<tool>", lstrip=True)),
        lambda: with_added(AddedToken("New York")),
    ],
)
def test_a_tokenizer_that_could_differ_does_not_qualify(tokenizer: Any) -> None:
    assert not qualifies(tokenizer())


def test_one_difference_from_the_library_ends_the_memory_and_nothing_wrong_comes_out() -> None:
    encoder = Encoder(tokenizer_of("gpt2"))
    assert encoder.fast is not None
    encoder.fast.words["and"] = b"\0\0"  # what a wrong cut would have left there
    rows = [Rendered("the and the", None, "x"), Rendered("foo", None, "y")]
    packed = encoder.pack(rows)
    assert encoder.fast is None
    assert [row.encoded() for row in packed] == encoder.encode(rows)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_tokens, "ENTRIES", 50)
    fast = made(tokenizer_of("gpt2"))
    for number in range(100):
        text = f"the word{number} and more{number}"
        [row] = fast.pack([Rendered(text, None, "x")]) or []
        assert row.encoded().input_ids == library(tokenizer_of("gpt2"), text)
        assert len(fast.pieces) + len(fast.words) < 80
    long = "a" * 500
    fast.pack([Rendered(long, None, "x")])
    assert long not in fast.pieces
