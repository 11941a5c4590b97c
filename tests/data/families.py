"""Chat templates of real families, written anew after their published formats, each with a small tokenizer.

A tokenizer here has its family's special tokens and its way of cutting text (GPT-2's or Llama 3's pattern on bytes,
SentencePiece's ▁, Gemma's without a first ▁), and a vocabulary of the few words that the tests use, so that a row is
short enough to be written down token by token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.tiny import CHATML

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)

# fmt: off
WORDS = [
    "system", "user", "assistant", "model", "tool", "ipython", "Be", "Ġkind", "Hi", "Ġthere", "Hello", "Ġyou", "You",
    "Ġare", "ĠSmol", "Bye", "Ġnow", "Good", "Ġbye", "hm", "Ġok", '{"', "type", '":', 'Ġ"', "function", '",', "name",
    'Ġ{"', "add", '"}}ĊĊ', '"}}Ċ', "arguments", "parameters", "x", "}}", "}}Ċ", "}Ċ", "ĠTools", "ĊĊ", "<tools",
    "tools", "</", ">Ċ", "<tool", "_response", "```", "json",
]
"""Whole tokens of the byte-level tokenizers, in their spelling (Ġ a space, Ċ a line break)."""

PIECES = [
    "[INST]", "[/INST]", "▁[INST]", "▁[/INST]", "<<SYS>>", "<</SYS>>", "▁<<SYS>>", "user", "model", "Be", "▁kind",
    "Hi", "▁Hi", "▁there", "Hello", "▁Hello", "▁you", "Bye", "▁Bye", "▁now", "Good", "▁Good", "▁bye", "▁Be",
    '▁[{"type":', '▁"function",', '▁"function":', '▁{"name":', '▁"add"}}]', '▁[{"name":', '▁"add",', '▁"arguments":',
    '▁{"x":', "▁2}}]", '▁{"content":', "▁4}",
]
"""Whole tokens of the SentencePiece-like tokenizers."""
# fmt: on

SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are Smol<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with a system prompt of its own."""

LLAMA3 = (
    "{% macro head(role) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}{% endmacro %}"
    "{{ bos_token }}{% set rest = messages %}"
    "{% if messages[0].role == 'system' or tools %}{{ head('system') }}"
    "{% for tool in tools or [] %}{{ tool | tojson + '\n\n' }}{% endfor %}"
    "{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{{ messages[0].content | trim }}{% endif %}"
    "{{ '<|eot_id|>' }}{% endif %}"
    "{% for m in rest %}"
    "{% if m.tool_calls %}{% set call = m.tool_calls[0].function %}"
    "{% if m.tool_calls | length > 1 %}{{ raise_exception('This model takes one tool call at once') }}{% endif %}"
    "{{ head('assistant') + '{\"name\": \"' + call.name + '\", \"parameters\": ' + call.arguments | tojson + '}' }}"
    "{{ '<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}{{ head('ipython') + m.content | trim + '<|eot_id|>' }}"
    "{% else %}{{ head(m.role) + m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}"
)
"""Two line breaks after the role, contents trimmed, tool results under a role of their own."""

LLAMA2 = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{% for m in (messages[1:] if system else messages) %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""No token of its own but BOS and EOS, a space on both sides of an answer, and no generation prompt."""

MISTRAL = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{% set rest = messages[1:] if system else messages %}"
    "{% set users = rest | selectattr('role', 'equalto', 'user') | list %}"
    "{{ bos_token }}{% for m in rest %}"
    "{% if m.role == 'user' %}"
    "{% if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + (system + '\n\n' if system and m == users[-1] else '') + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] [' }}{% for call in m.tool_calls %}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}"
    "{{ ', ' if not loop.last else '' }}{% endfor %}{{ ']' + eos_token }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] {\"content\": ' + m.content + '}[/TOOL_RESULTS]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
"""The system prompt and the tools stand before the last question, so that a later turn rewrites the earlier ones."""

GEMMA = (
    "{% set system = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{{ bos_token }}{% for m in (messages[1:] if system else messages) %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + (system if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""The assistant is called model, the system prompt becomes part of the first question."""

PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
"""A role is a token, the tokens swallow the white space after them, and EOS follows the last turn only."""

PHI4 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
"""No line breaks at all."""

QWEN3 = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% if tools %}{{ '<|im_start|>system\n' + (system + '\n\n' if system else '') + '# Tools\n\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '\n</tools><|im_end|>\n' }}"
    "{% elif system %}{{ '<|im_start|>system\n' + system + '<|im_end|>\n' }}{% endif %}"
    "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m.content or '' %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + text + '<|im_end|>\n' }}"
    "{% elif m.role == 'assistant' %}{% set thought = m.reasoning_content or '' %}"
    "{% if not thought and '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + text.lstrip('\n') }}{% else %}{{ text }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ '\n' if text or not loop.first else '' }}"
    '{{ \'<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{ call.function.arguments | tojson + '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif m.role == 'tool' %}"
    "{{ '<|im_start|>user\n<tool_response>\n' + text + '\n</tool_response><|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Only the turns after the last question keep their reasoning; an empty one is written where there is none."""

DEEPSEEK = (
    "{% set ns = namespace(after_tool=false) %}{{ bos_token }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "{% for m in messages %}"
    "{% if m.role == 'user' %}{% set ns.after_tool = false %}{{ '<｜User｜>' + m.content }}"
    "{% elif m.role == 'assistant' and m.tool_calls %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}"
    "{% for call in m.tool_calls %}{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name }}"
    "{{ '\n```json\n' + call.function.arguments + '\n```<｜tool▁call▁end｜>' }}{% endfor %}"
    "{{ '<｜tool▁calls▁end｜>' + eos_token }}"
    "{% elif m.role == 'assistant' %}"
    "{{ ('' if ns.after_tool else '<｜Assistant｜>') + m.content.split('</think>')[-1] + eos_token }}"
    "{% set ns.after_tool = false %}"
    "{% elif m.role == 'tool' %}{% set ns.after_tool = true %}"
    "{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and not ns.after_tool %}{{ '<｜Assistant｜>' }}{% endif %}"
)
"""Arguments as text, tokens inside a tool call, no generation prompt after a tool's result."""

DEEPSEEK_R1 = DEEPSEEK.replace("{{ '<｜Assistant｜>' }}{% endif %}", "{{ '<｜Assistant｜><think>\n' }}{% endif %}")
"""The generation prompt opens the reasoning, and the template drops what stands before `</think>` from every turn."""


@dataclass(frozen=True)
class Family:
    """A template and how its tokenizer is built. ``plain``: tokens that are added without being special."""

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    text: str = "gpt2"
    plain: tuple[str, ...] = ()
    swallows: bool = False


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_DEEPSEEK = (
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    *(f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep")),
    *(f"<｜tool▁{name}｜>" for name in ("output▁begin", "output▁end")),
)
_THINK = ("<think>", "</think>")
_MISTRAL = (
    *("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
)

FAMILIES = {
    "chatml": Family(CHATML, _CHATML, None, "<|im_end|>"),
    "smollm2": Family(SMOLLM2, _CHATML, "<|im_start|>", "<|im_end|>"),
    "llama3": Family(
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|eot_id|>",
        "llama3",
    ),
    "llama2": Family(LLAMA2, ("<unk>", "<s>", "</s>"), "<s>", "</s>", "▁first"),
    "mistral": Family(MISTRAL, ("<unk>", "<s>", "</s>", *_MISTRAL), "<s>", "</s>", "▁first"),
    "gemma": Family(GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "▁"),
    "phi3": Family(
        PHI3,
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        None,
        "<|endoftext|>",
        "gpt2",
        swallows=True,
    ),
    "phi4": Family(PHI4, (*_CHATML, "<|im_sep|>"), None, "<|im_end|>"),
    "qwen3": Family(QWEN3, _CHATML, None, "<|im_end|>", "llama3", (*_THINK, "<tool_call>", "</tool_call>")),
    "deepseek": Family(DEEPSEEK, _DEEPSEEK, _DEEPSEEK[0], _DEEPSEEK[1], "llama3"),
    "deepseek-r1": Family(DEEPSEEK_R1, _DEEPSEEK, _DEEPSEEK[0], _DEEPSEEK[1], "llama3", _THINK),
}


@lru_cache
def family_tokenizer(name: str) -> Any:
    """The tokenizer of a family, with its template."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    if family.text.startswith("▁"):
        first = "first" if family.text == "▁first" else "never"
        tokenizer = Tokenizer(_model(PIECES, [chr(at) for at in range(33, 127)] + ["▁"], family, bytes_too=True))
        space = pre_tokenizers.Metaspace(prepend_scheme=first)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("\n", "isolated"), space])
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=first)])
    else:
        tokenizer = Tokenizer(_model(WORDS, pre_tokenizers.ByteLevel.alphabet(), family, bytes_too=False))
        pattern = [] if family.text == "gpt2" else [pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated")]
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family.text == "gpt2")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*pattern, level])
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, rstrip=family.swallows) for t in family.special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.plain])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=family.bos, eos_token=family.eos, pad_token=family.special[0]
    )
    fast.chat_template = family.template
    return fast


def _model(words: list[str], alphabet: list[str], family: Family, *, bytes_too: bool) -> Any:
    """A BPE whose merges make each of the words one token; ``bytes_too``: other characters become bytes."""
    import json

    from tokenizers import Tokenizer, models, trainers

    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=10_000, show_progress=False, initial_alphabet=alphabet)
    )
    state = json.loads(trained.to_str())["model"]
    first = [*family.special, *(f"<0x{byte:02X}>" for byte in range(256) if bytes_too)]
    vocabulary = {token: index for index, token in enumerate([*first, *sorted(set(state["vocab"]) - set(first))])}
    return models.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in state["merges"]], byte_fallback=bytes_too)
