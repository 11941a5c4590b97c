"""Every token of every kind of row in eleven template families, written by hand; a * marks what is trained."""

from __future__ import annotations

from typing import Any

import pytest

from alignkit.data.encoding.incremental import NO_CONTEXT, NO_REASONING, NO_TOOLS, REBUILT, REWRITTEN
from alignkit.data.encoding.rendering import Renderer
from alignkit.data.encoding.tokenizing import Encoder, prompt_ids
from alignkit.data.encoding.verify import Verifier
from alignkit.data.rows import UNTRAINED, Conversation
from tests.data.families import FAMILIES, family_tokenizer

ADD = {"type": "function", "function": {"name": "add"}}
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"x": 2}'}}
ONE = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "Hello you"}]
TWO = [*ONE, {"role": "user", "content": "Bye now"}, {"role": "assistant", "content": "Good bye"}]
SYSTEM = [{"role": "system", "content": "Be kind"}]
CALLS = [
    ONE[0],
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4", "name": "add"},
    ONE[1],
]


def thought(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "reasoning_content": "hm ok"} if message["role"] == "assistant" else message


CASES = {
    "single": Conversation(ONE, "x"),
    "multi": Conversation(TWO, "x"),
    "system": Conversation(SYSTEM + ONE, "x"),
    "system multi": Conversation(SYSTEM + TWO, "x"),
    "tools": Conversation(CALLS, "x", tools=[ADD]),
    "reasoning": Conversation([thought(message) for message in TWO], "x"),
    "reasoning inside": Conversation([ONE[0], {**ONE[1], "content": "<think>hm ok</think>Hello you"}], "x"),
}

GOLDEN = {
    ("chatml", "single"): [
        "<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ *Hello *Ġyou *<|im_end|>"
    ],
    ("chatml", "multi"): [
        """<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ *Hello *Ġyou *<|im_end|> Ċ
        <|im_start|> user Ċ Bye Ġnow <|im_end|> Ċ <|im_start|> assistant Ċ *Good *Ġbye *<|im_end|>"""
    ],
    ("chatml", "system"): [
        """<|im_start|> system Ċ Be Ġkind <|im_end|> Ċ <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *Hello *Ġyou *<|im_end|>"""
    ],
    ("smollm2", "single"): [
        """<|im_start|> system Ċ You Ġare ĠSmol <|im_end|> Ċ <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *Hello *Ġyou *<|im_end|>"""
    ],
    ("smollm2", "multi"): [
        """<|im_start|> system Ċ You Ġare ĠSmol <|im_end|> Ċ <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *Hello *Ġyou *<|im_end|> Ċ
        <|im_start|> user Ċ Bye Ġnow <|im_end|> Ċ <|im_start|> assistant Ċ *Good *Ġbye *<|im_end|>"""
    ],
    ("smollm2", "system"): [
        """<|im_start|> system Ċ Be Ġkind <|im_end|> Ċ <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *Hello *Ġyou *<|im_end|>"""
    ],
    ("llama3", "single"): [
        """<|begin_of_text|> <|start_header_id|> user <|end_header_id|> ĊĊ Hi Ġthere <|eot_id|>
        <|start_header_id|> assistant <|end_header_id|> ĊĊ *Hello *Ġyou *<|eot_id|>"""
    ],
    ("llama3", "multi"): [
        """<|begin_of_text|> <|start_header_id|> user <|end_header_id|> ĊĊ Hi Ġthere <|eot_id|>
        <|start_header_id|> assistant <|end_header_id|> ĊĊ *Hello *Ġyou *<|eot_id|>
        <|start_header_id|> user <|end_header_id|> ĊĊ Bye Ġnow <|eot_id|>
        <|start_header_id|> assistant <|end_header_id|> ĊĊ *Good *Ġbye *<|eot_id|>"""
    ],
    ("llama3", "system"): [
        """<|begin_of_text|> <|start_header_id|> system <|end_header_id|> ĊĊ Be Ġkind <|eot_id|>
        <|start_header_id|> user <|end_header_id|> ĊĊ Hi Ġthere <|eot_id|>
        <|start_header_id|> assistant <|end_header_id|> ĊĊ *Hello *Ġyou *<|eot_id|>"""
    ],
    ("llama3", "tools"): [
        """<|begin_of_text|> <|start_header_id|> system <|end_header_id|> ĊĊ
        {" type ": Ġ" function ", Ġ" function ": Ġ{" name ": Ġ" add "}}ĊĊ <|eot_id|>
        <|start_header_id|> user <|end_header_id|> ĊĊ Hi Ġthere <|eot_id|>
        <|start_header_id|> assistant <|end_header_id|> ĊĊ
        *{" *name *": *Ġ" *add *", *Ġ" *parameters *": *Ġ{" *x *": *Ġ *2 *}} *<|eot_id|>
        <|start_header_id|> ipython <|end_header_id|> ĊĊ 4 <|eot_id|>
        <|start_header_id|> assistant <|end_header_id|> ĊĊ *Hello *Ġyou *<|eot_id|>"""
    ],
    ("llama2", "single"): ["<s> [INST] ▁Hi ▁there ▁[/INST] *▁Hello *▁you *▁ *</s>"],
    ("llama2", "multi"): [
        """<s> [INST] ▁Hi ▁there ▁[/INST] *▁Hello *▁you *▁ *</s>
        <s> [INST] ▁Bye ▁now ▁[/INST] *▁Good *▁bye *▁ *</s>"""
    ],
    ("llama2", "system"): [
        """<s> [INST] ▁<<SYS>> <0x0A> Be ▁kind <0x0A> <</SYS>> <0x0A> <0x0A> Hi ▁there ▁[/INST]
        *▁Hello *▁you *▁ *</s>"""
    ],
    ("mistral", "single"): ["<s> [INST] ▁Hi ▁there [/INST] *▁Hello *▁you *</s>"],
    ("mistral", "multi"): [
        """<s> [INST] ▁Hi ▁there [/INST] *▁Hello *▁you *</s> [INST] ▁Bye ▁now [/INST] *▁Good *▁bye *</s>"""
    ],
    ("mistral", "system"): ["<s> [INST] ▁Be ▁kind <0x0A> <0x0A> Hi ▁there [/INST] *▁Hello *▁you *</s>"],
    # The system prompt wanders to the last question, so each answer is a row as generation saw it.
    ("mistral", "system multi"): [
        "<s> [INST] ▁Be ▁kind <0x0A> <0x0A> Hi ▁there [/INST] *▁Hello *▁you *</s>",
        """<s> [INST] ▁Hi ▁there [/INST] ▁Hello ▁you </s> [INST] ▁Be ▁kind <0x0A> <0x0A> Bye ▁now [/INST]
        *▁Good *▁bye *</s>""",
    ],
    ("mistral", "tools"): [
        """<s> [AVAILABLE_TOOLS] ▁[{"type": ▁"function", ▁"function": ▁{"name": ▁"add"}}] [/AVAILABLE_TOOLS]
        [INST] ▁Hi ▁there [/INST] *[TOOL_CALLS] *▁[{"name": *▁"add", *▁"arguments": *▁{"x": *▁2}}] *</s>
        [TOOL_RESULTS] ▁{"content": ▁4} [/TOOL_RESULTS] *▁Hello *▁you *</s>"""
    ],
    ("gemma", "single"): [
        """<bos> <start_of_turn> user <0x0A> Hi ▁there <end_of_turn> <0x0A>
        <start_of_turn> model <0x0A> *Hello *▁you *<end_of_turn>"""
    ],
    ("gemma", "multi"): [
        """<bos> <start_of_turn> user <0x0A> Hi ▁there <end_of_turn> <0x0A>
        <start_of_turn> model <0x0A> *Hello *▁you *<end_of_turn> <0x0A>
        <start_of_turn> user <0x0A> Bye ▁now <end_of_turn> <0x0A>
        <start_of_turn> model <0x0A> *Good *▁bye *<end_of_turn>"""
    ],
    ("gemma", "system"): [
        """<bos> <start_of_turn> user <0x0A> Be ▁kind <0x0A> <0x0A> Hi ▁there <end_of_turn> <0x0A>
        <start_of_turn> model <0x0A> *Hello *▁you *<end_of_turn>"""
    ],
    # The line breaks of the text are swallowed by the tokens before them.
    ("phi3", "single"): ["<|user|> Hi Ġthere <|end|> <|assistant|> *Hello *Ġyou *<|end|>"],
    ("phi3", "multi"): [
        """<|user|> Hi Ġthere <|end|> <|assistant|> *Hello *Ġyou *<|end|>
        <|user|> Bye Ġnow <|end|> <|assistant|> *Good *Ġbye *<|end|>"""
    ],
    ("phi3", "system"): ["<|system|> Be Ġkind <|end|> <|user|> Hi Ġthere <|end|> <|assistant|> *Hello *Ġyou *<|end|>"],
    ("phi4", "single"): [
        """<|im_start|> user <|im_sep|> Hi Ġthere <|im_end|>
        <|im_start|> assistant <|im_sep|> *Hello *Ġyou *<|im_end|>"""
    ],
    ("phi4", "system multi"): [
        """<|im_start|> system <|im_sep|> Be Ġkind <|im_end|> <|im_start|> user <|im_sep|> Hi Ġthere <|im_end|>
        <|im_start|> assistant <|im_sep|> *Hello *Ġyou *<|im_end|>
        <|im_start|> user <|im_sep|> Bye Ġnow <|im_end|>
        <|im_start|> assistant <|im_sep|> *Good *Ġbye *<|im_end|>"""
    ],
    # An answer without reasoning begins with an empty one, but only while it is the last turn.
    ("qwen3", "single"): [
        """<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *ĊĊ *</think> *ĊĊ *Hello *Ġyou *<|im_end|>"""
    ],
    ("qwen3", "system multi"): [
        """<|im_start|> system Ċ Be Ġkind <|im_end|> Ċ <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *ĊĊ *</think> *ĊĊ *Hello *Ġyou *<|im_end|>""",
        """<|im_start|> system Ċ Be Ġkind <|im_end|> Ċ <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ Hello Ġyou <|im_end|> Ċ <|im_start|> user Ċ Bye Ġnow <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *ĊĊ *</think> *ĊĊ *Good *Ġbye *<|im_end|>""",
    ],
    ("qwen3", "reasoning"): [
        """<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *Ċ *hm *Ġok *Ċ *</think> *ĊĊ *Hello *Ġyou *<|im_end|>""",
        """<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ Hello Ġyou <|im_end|> Ċ
        <|im_start|> user Ċ Bye Ġnow <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *Ċ *hm *Ġok *Ċ *</think> *ĊĊ *Good *Ġbye *<|im_end|>""",
    ],
    ("qwen3", "reasoning inside"): [
        """<|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *Ċ *hm *Ġok *Ċ *</think> *ĊĊ *Hello *Ġyou *<|im_end|>"""
    ],
    ("qwen3", "tools"): [
        """<|im_start|> system Ċ # ĠTools ĊĊ <tools >Ċ
        {" type ": Ġ" function ", Ġ" function ": Ġ{" name ": Ġ" add "}}Ċ </ tools > <|im_end|> Ċ
        <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ *<think> *ĊĊ *</think> *ĊĊ *<tool_call> *Ċ
        *{" *name *": *Ġ" *add *", *Ġ" *arguments *": *Ġ{" *x *": *Ġ *2 *}}Ċ *</tool_call> *<|im_end|>""",
        """<|im_start|> system Ċ # ĠTools ĊĊ <tools >Ċ
        {" type ": Ġ" function ", Ġ" function ": Ġ{" name ": Ġ" add "}}Ċ </ tools > <|im_end|> Ċ
        <|im_start|> user Ċ Hi Ġthere <|im_end|> Ċ <|im_start|> assistant Ċ <tool_call> Ċ
        {" name ": Ġ" add ", Ġ" arguments ": Ġ{" x ": Ġ 2 }}Ċ </tool_call> <|im_end|> Ċ
        <|im_start|> user Ċ <tool _response >Ċ 4 Ċ </ tool _response > <|im_end|> Ċ
        <|im_start|> assistant Ċ *<think> *ĊĊ *</think> *ĊĊ *Hello *Ġyou *<|im_end|>""",
    ],
    ("deepseek", "single"): [
        """<｜begin▁of▁sentence｜> <｜User｜> Hi Ġthere <｜Assistant｜> *Hello *Ġyou *<｜end▁of▁sentence｜>"""
    ],
    ("deepseek", "system multi"): [
        """<｜begin▁of▁sentence｜> Be Ġkind <｜User｜> Hi Ġthere <｜Assistant｜> *Hello *Ġyou *<｜end▁of▁sentence｜>
        <｜User｜> Bye Ġnow <｜Assistant｜> *Good *Ġbye *<｜end▁of▁sentence｜>"""
    ],
    ("deepseek", "tools"): [
        """<｜begin▁of▁sentence｜> <｜User｜> Hi Ġthere <｜Assistant｜> *<｜tool▁calls▁begin｜> *<｜tool▁call▁begin｜>
        *function *<｜tool▁sep｜> *add *Ċ *``` *json *Ċ *{" *x *": *Ġ *2 *}Ċ *``` *<｜tool▁call▁end｜>
        *<｜tool▁calls▁end｜> *<｜end▁of▁sentence｜> <｜tool▁output▁begin｜> 4 <｜tool▁output▁end｜>
        *Hello *Ġyou *<｜end▁of▁sentence｜>"""
    ],
    # What the template drops is what a model must learn to say after the prompt that opens its reasoning.
    ("deepseek-r1", "reasoning"): [
        """<｜begin▁of▁sentence｜> <｜User｜> Hi Ġthere <｜Assistant｜> <think> Ċ
        *hm *Ġok *Ċ *</think> *ĊĊ *Hello *Ġyou *<｜end▁of▁sentence｜>""",
        """<｜begin▁of▁sentence｜> <｜User｜> Hi Ġthere <｜Assistant｜> Hello Ġyou <｜end▁of▁sentence｜>
        <｜User｜> Bye Ġnow <｜Assistant｜> <think> Ċ
        *hm *Ġok *Ċ *</think> *ĊĊ *Good *Ġbye *<｜end▁of▁sentence｜>""",
    ],
    ("deepseek-r1", "reasoning inside"): [
        """<｜begin▁of▁sentence｜> <｜User｜> Hi Ġthere <｜Assistant｜> <think> Ċ
        *hm *Ġok *</think> *Hello *Ġyou *<｜end▁of▁sentence｜>"""
    ],
}
NOTES = {
    ("mistral", "system multi"): {REWRITTEN: 1},
    ("qwen3", "system multi"): {REWRITTEN: 1},
    ("qwen3", "reasoning"): {REWRITTEN: 1},
    ("qwen3", "tools"): {REWRITTEN: 1},
    ("deepseek", "tools"): {NO_TOOLS: 1},
    ("deepseek-r1", "reasoning"): {REWRITTEN: 1, REBUILT: 2},
    ("deepseek-r1", "reasoning inside"): {REBUILT: 1},
}


def read(golden: str) -> tuple[list[str], list[bool]]:
    """(tokens, whether each is trained) of a row as it is written above."""
    words = golden.split()
    return [word.removeprefix("*") for word in words], [word.startswith("*") for word in words]


@pytest.mark.parametrize(("family", "case"), GOLDEN)
def test_every_token_is_the_one_written_down(family, case):
    tokenizer = family_tokenizer(family)
    renderer = Renderer(tokenizer)
    rendered = renderer.render([CASES[case]])[0]
    rows = Encoder(tokenizer).encode(rendered)
    found = [
        (tokenizer.convert_ids_to_tokens(row.input_ids), [label != UNTRAINED for label in row.labels]) for row in rows
    ]
    assert found == [read(golden) for golden in GOLDEN[family, case]]
    assert [tokens.encoded() for tokens in Encoder(tokenizer).pack(rendered)] == rows
    assert dict(renderer.notes) == NOTES.get((family, case), {})
    assert [Verifier(tokenizer).fault(row.input_ids, row.labels, "x", False) for row in rows] == [None] * len(rows)


@pytest.mark.parametrize(("family", "case"), GOLDEN)
def test_what_stands_before_an_answer_is_what_generation_starts_from(family, case):
    tokenizer, chat = family_tokenizer(family), CASES[case]
    rendered = Renderer(tokenizer).render([chat])[0]
    for text, row in zip(rendered, Encoder(tokenizer).encode(rendered), strict=True):
        first = chat.messages[: 1 + (chat.messages[0]["role"] == "system")] if len(rendered) == 1 else text.prompt
        prompt = prompt_ids(tokenizer, first, chat.tools)
        assert row.input_ids[: len(prompt)] == prompt
        assert row.labels[: len(prompt)] == [UNTRAINED] * len(prompt)
        assert row.labels[len(prompt)] == row.input_ids[len(prompt)]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_last_answer(family):
    tokenizer = family_tokenizer(family)
    [row] = Encoder(tokenizer).encode(Renderer(tokenizer, "last").render([CASES["multi"]])[0])
    trained = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != UNTRAINED]
    assert tokenizer.decode(trained).replace("<think>\n\n</think>\n\n", "").strip().startswith("Good bye")
    assert row.labels[-1] == row.input_ids[-1]


def test_what_a_template_drops_is_told():
    tokenizer = family_tokenizer("smollm2")
    renderer = Renderer(tokenizer)
    renderer.render([CASES["reasoning"], Conversation(ONE, "x", tools=[ADD])])
    assert renderer.notes == {NO_REASONING: 2, NO_TOOLS: 1}
    tokenizer = family_tokenizer("llama2")
    renderer = Renderer(tokenizer)
    renderer.render([Conversation([*SYSTEM, *ONE[:1], {"role": "assistant", "content": "Hello"}], "x")])
    assert NO_CONTEXT not in renderer.notes
