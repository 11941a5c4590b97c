"""Chat templates with the habits of real families, written anew, and tokenizers that make their traps visible."""

from __future__ import annotations

from typing import Any

from tests.tiny import CHATML, build_tokenizer

STRIPS_THINKING = (
    "{% for m in messages %}"
    "{% set text = m['content'] %}"
    "{% if m['role'] == 'assistant' and not loop.last and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Earlier answers lose their reasoning when a later turn is rendered."""

NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)

NO_END_OF_TURN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""Nothing special ends a turn."""

THINKS_WHEN_ASKED = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
"""The generation prompt holds more than a rendered answer begins with."""

TWO_LINE_BREAKS = CHATML.replace("['role'] + '\n'", "['role'] + '\n\n'").replace("assistant\n", "assistant\n\n")
"""Llama 3's habit: two line breaks after the role."""

ENDS_WITH_EOS = CHATML.replace(
    "{% endfor %}", "{% if loop.last and not add_generation_prompt %}<|endoftext|>{% endif %}{% endfor %}"
)
"""A token after the last turn that no earlier turn has."""


def merging_tokenizer(template: str | None = CHATML, *, bos: bool = False) -> Any:
    """The byte tokenizer with merges for two line breaks, and for a space before an a; optionally it writes a BOS."""
    import json

    from tokenizers import Tokenizer, processors

    fast = build_tokenizer(template)
    state = json.loads(fast.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for pair in (("Ċ", "Ċ"), ("Ġ", "a")):
        vocabulary["".join(pair)] = len(vocabulary)
        state["model"]["merges"].append(list(pair))
    fast._tokenizer = Tokenizer.from_str(json.dumps(state))
    if bos:
        fast._tokenizer.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
    return fast


def decode_trained(tokenizer: Any, row: Any) -> str:
    """The text of the tokens that carry loss."""
    trained = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != -100]
    assert trained == [label for label in row.labels if label != -100]
    return str(tokenizer.decode(trained, skip_special_tokens=False, clean_up_tokenization_spaces=False))
