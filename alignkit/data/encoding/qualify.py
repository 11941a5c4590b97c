"""Whether a text may be cut before its single spaces and keep its tokens, by proof and not by the tokenizer's name."""

from __future__ import annotations

import json
import re
from typing import Any

PAIRS = (
    [chr(code) for code in range(33, 127)]
    + list("éßñжЖαאעअกあ日本한글ㅏ٣②½Ⅷ€£“”‘’—…。，！？（）·¿¡×÷™😀🇩🎉\u0301\u200b\u200d\ufeff\ufffd\u00ad\x00\x07")
    + ["don't", "'s", "'LL", "3,000.50", "...", ");", "http://a.b/c?d=e", "ﬁ", "İ", "ǅ", "e\u0301", "👨\u200d👩"]
)
"""Characters of every class that pre-tokenizers tell apart, and some that end or begin a word in a special way."""

_answers: dict[tuple[bytes, str, int], bool] = {}
"""What was proved, by the pre-tokenizer's rules: the battery takes a tenth of a second."""


def qualifies(tokenizer: Any) -> bool:
    """Whether cutting before a space between two characters that are no white space leaves all tokens as they are.

    True for a byte-level BPE without dropout whose normalizer keeps such a cut (none, or NFC), whose pre-tokenizer
    begins a pre-token at every such space of a battery of pairs, and whose added tokens do not reach over one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.pre_tokenizer is None or not tokenizer.is_fast:
        return False
    if getattr(tokenizer, "split_special_tokens", False):
        return False
    model = backend.model
    if type(model).__name__ != "BPE" or model.dropout or model.fuse_unk:
        return False
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return False
    if not _keeps_cuts(backend.normalizer) or not _is_byte_level(backend.pre_tokenizer):
        return False
    for token in backend.get_added_tokens_decoder().values():
        if token.lstrip or token.rstrip or token.single_word or re.search(r"\S\s+(?=\S|$)", token.content):
            return False
    return _cuts_before_space(backend.pre_tokenizer)


def cuts_after_newline(pre_tokenizer: Any) -> bool:
    """Whether a pre-token also ends after a line break between two characters that are no white space."""
    return _proved(pre_tokenizer, "\n", 1)


def _cuts_before_space(pre_tokenizer: Any) -> bool:
    return _proved(pre_tokenizer, " ", 0)


def _proved(pre_tokenizer: Any, between: str, beyond: int) -> bool:
    """Whether a pre-token begins ``beyond`` characters after the start of every ``between``, in the whole battery."""
    question = (pre_tokenizer.__getstate__(), between, beyond)
    if question not in _answers:
        _answers[question] = all(_begins_at(pre_tokenizer, _joined(one, between), between, beyond) for one in PAIRS)
    return _answers[question]


def _joined(one: str, between: str) -> str:
    """A text in which `one` stands before and after every other of the battery."""
    return between.join(part for other in PAIRS for part in (one, other))


def _begins_at(pre_tokenizer: Any, text: str, between: str, beyond: int) -> bool:
    starts = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(text)}
    return all(at + beyond in starts for at, character in enumerate(text) if character == between)


def _keeps_cuts(normalizer: Any) -> bool:
    """NFC composes nothing with a space, so it may be done piece by piece; others are not looked into."""
    return normalizer is None or type(normalizer).__name__ == "NFC"


def _is_byte_level(pre_tokenizer: Any) -> bool:
    """Every byte has a token, so no piece holds anything unknown; and nothing is put before a text."""
    state = json.loads(pre_tokenizer.__getstate__())
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    return (
        len(levels) == 1
        and not levels[0]["add_prefix_space"]
        and all(step["type"] in ("ByteLevel", "Split", "Digits", "Punctuation") for step in steps)
    )
