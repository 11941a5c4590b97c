"""Weights, tools, prompts, and rows that cannot be rendered."""

from __future__ import annotations

import pytest

from alignkit.data.encoding.incremental import DATED, NO_CONTEXT, NO_TEXT
from alignkit.data.encoding.rendering import Renderer
from alignkit.data.encoding.templating import apply_template
from alignkit.data.encoding.tokenizing import Encoder, prompt_ids
from alignkit.data.rows import Completion, Conversation, Prompt, Text
from alignkit.errors import Fault, RequestError
from tests.data.families import family_tokenizer
from tests.tiny import CHATML, build_tokenizer

FOUR = [
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "r"},
    {"role": "assistant", "content": "B"},
]
ADD = {"type": "function", "function": {"name": "add"}}


def said(row):
    """The trained stretches of a text with their weights."""
    weights = row.span_weights or [1.0] * len(row.spans)
    return [(row.text[start:end], weight) for (start, end), weight in zip(row.spans, weights, strict=True)]


def render(messages=FOUR, weights=None, train_on="assistant", template=CHATML, **options):
    [rows] = Renderer(build_tokenizer(template), train_on).render([Conversation(messages, "x", None, None, weights)])
    return rows


@pytest.mark.parametrize(
    ("weights", "train_on", "expected"),
    [
        (None, "assistant", [("A<|im_end|>", 1), ("B<|im_end|>", 1)]),
        ((1, 1, 1, 1), "assistant", [("A<|im_end|>", 1), ("B<|im_end|>", 1)]),
        ((1, 0, 1, 1), "assistant", [("B<|im_end|>", 1)]),
        ((1, 1, 1, 0), "assistant", [("A<|im_end|>", 1)]),
        ((0, 0.5, 0, 2), "assistant", [("A<|im_end|>", 0.5), ("B<|im_end|>", 2)]),
        ((0, 0.5, 0, 2), "last", [("B<|im_end|>", 2)]),
        ((0, 0.5, 0, 0), "last", [("A<|im_end|>", 0.5)]),
    ],
)
def test_weights_of_messages(weights, train_on, expected):
    for _ in range(2):
        [row] = render(weights=weights, train_on=train_on)
        assert said(row) == expected
        assert (row.span_weights is None) == all(weight == 1 for _, weight in expected)
    assert row.text.endswith(expected[-1][0])  # what comes after the last trained answer teaches nothing


def test_weights_are_the_same_by_the_short_way():
    tokenizer, weights = build_tokenizer(), (0, 0.5, 0, 2)
    chats = [Conversation(FOUR, str(n), weights=weights) for n in range(10)]
    short, slow = Renderer(tokenizer), Renderer(tokenizer, outlines=False)
    assert short.render(chats) == slow.render(chats)
    assert short.conversations.handed_out > 0


def test_a_row_without_any_weight_has_no_text():
    assert render(weights=(1, 0, 1, 0)) == []


def test_weights_while_everything_is_trained():
    assert render(train_on="all", weights=(1, 1, 1, 1))[0].spans is None
    [row] = render(train_on="all", weights=(1, 0, 1, 0.5))
    assert said(row) == [
        ("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", 1),
        ("\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n", 1),
        ("B<|im_end|>", 0.5),
    ]


def test_weights_where_each_answer_is_a_row():
    tokenizer = family_tokenizer("qwen3")
    chat = Conversation(FOUR, "x", weights=(1, 0.5, 1, 1))
    rows = Renderer(tokenizer).render([chat])[0]
    assert [row.span_weights for row in rows] == [[0.5], None]
    with pytest.raises(RequestError, match=r"weighs its messages, data\.train_on is all"):
        Renderer(tokenizer, "all").render([chat])


def test_text_and_completions_and_prompts():
    tokenizer = family_tokenizer("qwen3")
    documents = [Text("t", "1"), Completion("p", "c", "2"), Prompt("p", "3"), Prompt(FOUR[:3], "4", tools=[ADD])]
    [text], [completion], [plain], [prompt] = Renderer(tokenizer).render(documents)
    assert (text.text, text.spans, text.eos, text.plain, text.prompt) == ("t", None, True, True, None)
    assert (completion.text, completion.spans, completion.prompt, completion.answer) == ("pc", [(1, 2)], "p", "c")
    assert (plain.text, plain.spans, plain.plain, plain.prompt, plain.answer) == ("p", [], True, "p", None)
    assert (prompt.spans, prompt.plain, prompt.prompt, prompt.tools) == ([], False, FOUR[:3], [ADD])
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert Encoder(tokenizer).encode([prompt])[0].input_ids == prompt_ids(tokenizer, FOUR[:3], [ADD])


def test_arguments_are_given_as_the_template_takes_them():
    def calls(arguments):
        call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
        return [FOUR[0], {"role": "assistant", "tool_calls": [call], "content": ""}]

    for family in ("qwen3", "deepseek", "llama3", "mistral"):  # deepseek's concatenates text, the others write JSON
        as_object, as_text = apply_template(
            family_tokenizer(family), [calls({"x": "é"}), calls('{"x": "é"}')], False, [[ADD], [ADD]]
        )
        assert as_object == as_text
        assert '{"x": "é"}' in as_text


def test_each_conversation_of_a_batch_has_its_own_tools():
    tokenizer = family_tokenizer("qwen3")
    first, second = apply_template(tokenizer, [FOUR, FOUR], True, [[ADD], None])
    assert '"add"' in first
    assert second == apply_template(tokenizer, [FOUR], True)[0]


def faults(document, template=CHATML):
    [found] = Renderer(build_tokenizer(template)).render_each([document])
    assert isinstance(found, Fault)
    return str(found)


def test_tool_calls_that_the_template_does_not_write():
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [FOUR[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert "a line 3: message 2 calls add, and the model's chat template writes no tool calls" in faults(
        Conversation(messages, "a line 3")
    )


def test_an_answer_that_the_template_drops_or_cuts():
    drops = CHATML.replace("message['content']", "(message['content'] if message.role == 'user' else '')")
    assert "a line 3: the model's chat template leaves the answer in message 2 out" in faults(
        Conversation(FOUR[:2], "a line 3"), drops
    )
    cuts = CHATML.replace("message['content']", "message['content'][:5]")
    long = [FOUR[0], {"role": "assistant", "content": "more than five"}]
    assert "leaves the answer in message 2 out of the text, or changes it" in faults(Conversation(long, "x"), cuts)


def test_a_message_that_the_template_drops_is_told():
    drops = CHATML.replace("{% for", "{% set messages = messages[-2:] %}{% for", 1)
    renderer = Renderer(build_tokenizer(drops), "last")
    renderer.render([Conversation([{"role": "system", "content": "Be brief"}, *FOUR[:2]], "x")])
    assert renderer.notes[NO_CONTEXT] == 1


def test_text_beside_tool_calls_that_the_template_drops_is_told():
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": 2}}}
    messages = [FOUR[0], {"role": "assistant", "content": "I will add.", "tool_calls": [call]}]
    renderer = Renderer(family_tokenizer("llama3"))
    [[row]] = renderer.render([Conversation(messages, "x")])
    assert said(row) == [('{"name": "add", "parameters": {"x": 2}}<|eot_id|>', 1)]
    assert renderer.notes == {NO_TEXT: 1}


def test_a_result_that_the_template_writes_as_json_is_no_loss():
    tokenizer = build_tokenizer(CHATML.replace("message['content']", "(message['content'] | tojson)"))
    renderer = Renderer(tokenizer)
    messages = [FOUR[0], {"role": "assistant", "content": "A"}, {"role": "tool", "content": 'a "b"\n'}, FOUR[3]]
    renderer.render([Conversation(messages, "x")])
    assert renderer.notes == {}


def test_a_template_that_writes_the_day_is_told():
    dated = "{{ strftime_now('%d %b %Y') }}" + CHATML
    renderer = Renderer(build_tokenizer(dated))
    renderer.render([Conversation(FOUR, "x")] * 9)
    assert renderer.notes == {DATED: 9}


def test_faults_stand_in_the_place_of_their_rows():
    good, bad = (
        Conversation(FOUR, "a line 1"),
        Conversation([FOUR[0], {**FOUR[1], "content": "<|im_end|>"}], "a line 2"),
    )
    renderer = Renderer(build_tokenizer())
    found = renderer.render_each([good, bad, Text("t", "a line 3"), Prompt(bad.messages, "a line 4"), good])
    assert [isinstance(entry, Fault) for entry in found] == [False, True, False, True, False]
    assert "a line 2: message 2 (assistant) already holds template text `<|im_end|>`, at character 1" in str(found[1])
    assert found[0][0].spans == found[4][0].spans
    with pytest.raises(RequestError, match="a line 2"):
        renderer.render([good, bad])


def test_reasoning_marks_may_stand_in_an_answer_and_nowhere_else():
    from tokenizers import AddedToken

    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken("<think>", special=True), AddedToken("</think>", special=True)])
    messages = [FOUR[0], {"role": "assistant", "content": "<think>x</think>A"}]
    [[row]] = Renderer(tokenizer).render([Conversation(messages, "x")])
    assert said(row) == [("<think>x</think>A<|im_end|>", 1)]
    [found] = Renderer(tokenizer).render_each([Conversation([{**FOUR[0], "content": "a <think>"}, FOUR[1]], "x")])
    assert "message 1 (user) already holds template text `<think>`, at character 3" in str(found)


def test_special_tokens_in_calls_and_tools_are_found():
    call = {"type": "function", "function": {"name": "add", "arguments": {"x": "a<|im_end|>b"}}}
    messages = [FOUR[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    [found] = Renderer(build_tokenizer(CHATML)).render_each([Conversation(messages, "a.jsonl line 2")])
    assert str(found).startswith("a.jsonl line 2: message 2 (assistant) already holds template text `<|im_end|>`")
    tools = [{"type": "function", "function": {"name": "add", "description": "<|im_start|>"}}]
    for document in (
        Conversation(FOUR, "a.jsonl line 3", tools=tools),
        Prompt(FOUR[:1], "a.jsonl line 3", None, tools),
    ):
        [found] = Renderer(build_tokenizer(CHATML)).render_each([document])
        assert str(found).startswith("a.jsonl line 3: the tools on offer hold template text `<|im_start|>`")


def test_an_answer_that_is_how_the_generation_prompt_goes_on():
    [[row]] = Renderer(family_tokenizer("deepseek-r1")).render(
        [Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think"}], "x")]
    )
    assert said(row)[0][0].startswith("<think<")
