"""For any conversation and every template family: generation sees what training saw, and only answers are trained."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.encoding.rendering import Renderer
from alignkit.data.encoding.templating import prompt_text, special_names
from alignkit.data.encoding.tokenizing import Encoder, prompt_ids
from alignkit.data.encoding.verify import Verifier
from alignkit.data.rows import UNTRAINED, Conversation
from tests.data.families import FAMILIES, family_tokenizer

SAID = {
    "llama3": lambda text: text.strip() + "<|eot_id|>",
    "llama2": lambda text: f" {text.strip()} </s>",
    "mistral": lambda text: f" {text.strip()}</s>",
    "gemma": lambda text: text.strip() + "<end_of_turn>",
    "phi3": lambda text: text + "<|end|>",
    "qwen3": lambda text: "<think>\n\n</think>\n\n" + text.lstrip("\n") + "<|im_end|>",
    "deepseek": lambda text: text + "<｜end▁of▁sentence｜>",
    "deepseek-r1": lambda text: text + "<｜end▁of▁sentence｜>",
}
"""What each family's model says for an answer: its text and its end of turn; ChatML where nothing is written here."""

WORDS = ("Hi", " there", "\n", "  ", "\n\n", "é", "🙂", "7", "'s", "\t", ".", "日本", "<", "|", "[INST", "think", " ")
text = st.lists(st.sampled_from(WORDS) | st.characters(codec="utf-8", exclude_categories=["Cs", "Co"]), max_size=8).map(
    "".join
)
answer = text.filter(str.strip)
exchanges = st.lists(st.tuples(text, answer), min_size=1, max_size=3)


def messages_of(turns, system=None):
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [
        {"role": role, "content": said}
        for pair in turns
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]


def spans_of(rendered):
    """(row, the turn it is of, its span) for every trained answer."""
    for row in rendered:
        turns = [i for i, m in enumerate(row.document.messages) if m["role"] == "assistant" and i <= row.turn]
        for turn, span in zip(turns[-len(row.spans) :], row.spans, strict=True):
            yield row, turn, span


@pytest.mark.parametrize("family", FAMILIES)
@given(turns=exchanges, system=st.none() | answer)
@settings(max_examples=25, deadline=None)
def test_every_answer_stands_after_the_text_that_generation_starts_from(family, turns, system):
    tokenizer = family_tokenizer(family)
    chat = Conversation(messages_of(turns, system), "x")
    rendered = Renderer(tokenizer).render([chat])[0]
    assert sum(len(row.spans) for row in rendered) == len(turns)
    for row, turn, (start, end) in spans_of(rendered):
        prompt = prompt_text(tokenizer, chat.messages[:turn])
        if family != "deepseek-r1":  # whose prompt opens a reasoning that these answers do not have
            assert row.text[:start] == prompt
        said = SAID.get(family, lambda text: text + "<|im_end|>")
        assert row.text[start:end] == said(chat.messages[turn]["content"])


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "deepseek-r1"])
@given(turns=exchanges, system=st.none() | answer)
@settings(max_examples=25, deadline=None)
def test_tokens_before_an_answer_are_those_of_its_prompt(family, turns, system):
    tokenizer = family_tokenizer(family)
    messages = messages_of(turns, system)
    [[row]] = [Encoder(tokenizer).encode(r) for r in Renderer(tokenizer, "last").render([Conversation(messages, "x")])]
    prompt = prompt_ids(tokenizer, messages[:-1])
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels == [UNTRAINED] * len(prompt) + row.input_ids[len(prompt) :]
    assert row.trained


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "deepseek-r1"])
@given(turns=exchanges, system=st.none() | answer)
@settings(max_examples=25, deadline=None)
def test_a_whole_conversation_says_before_each_answer_what_its_prompt_says(family, turns, system):
    # White space aside: after an answer that begins with a line break, say, the tokens of the row are those that were
    # generated, while a prompt made of the text anew may join the line break with the one before it.
    tokenizer = family_tokenizer(family)
    verifier = Verifier(tokenizer)
    rendered = Renderer(tokenizer).render([Conversation(messages_of(turns, system), "x")])[0]
    for text, row in zip(rendered, Encoder(tokenizer).encode(rendered), strict=True):
        assert verifier.fault(row.input_ids, row.labels, "x", False) is None
        trained = [label != UNTRAINED for label in row.labels]
        starts = [at for at in range(1, len(row)) if trained[at] and not trained[at - 1]]
        for (_, turn, _), at in zip(spans_of([text]), starts, strict=True):
            prompt = prompt_ids(tokenizer, text.document.messages[:turn])
            assert squeezed(tokenizer, row.input_ids[:at]) == squeezed(tokenizer, prompt)


def squeezed(tokenizer, ids):
    return "".join(tokenizer.decode(ids, clean_up_tokenization_spaces=False).split())


@pytest.mark.parametrize("family", ["chatml", "smollm2", "llama3", "phi4", "qwen3", "deepseek"])
@given(turns=exchanges)
@settings(max_examples=25, deadline=None)
def test_trained_tokens_say_the_answers_and_nothing_else(family, turns):
    tokenizer = family_tokenizer(family)
    rendered = Renderer(tokenizer).render([Conversation(messages_of(turns), "x")])[0]
    trained = [label for row in Encoder(tokenizer).encode(rendered) for label in row.labels if label != UNTRAINED]
    said = SAID.get(family, lambda text: text + "<|im_end|>")
    assert tokenizer.decode(trained, clean_up_tokenization_spaces=False) == "".join(said(reply) for _, reply in turns)


@pytest.mark.parametrize("family", FAMILIES)
@given(rows=st.lists(st.tuples(exchanges, st.none() | answer), min_size=1, max_size=6), last=st.booleans())
@settings(max_examples=15, deadline=None)
def test_the_short_way_gives_what_turn_by_turn_gives(family, rows, last):
    tokenizer = family_tokenizer(family)
    # Each row often enough that its sequence of roles has an outline, with other contents in between.
    chats = [Conversation(messages_of(turns, system), str(n)) for n in range(4) for turns, system in rows]
    chats += [Conversation([dict(m, content=m["content"] + " x") for m in chat.messages], "y") for chat in chats]
    train_on = "last" if last else "assistant"
    short, slow = Renderer(tokenizer, train_on), Renderer(tokenizer, train_on, outlines=False)
    assert short.render(chats) + short.render(chats) == slow.render(chats) + slow.render(chats)
    assert short.notes == slow.notes


@pytest.mark.parametrize("family", FAMILIES)
@given(said=text, data=st.data())
@settings(max_examples=20, deadline=None)
def test_special_tokens_inside_a_message_are_found(family, said, data):
    tokenizer = family_tokenizer(family)
    token = data.draw(st.sampled_from(sorted(special_names(tokenizer))))
    messages = messages_of([(said, "a"), (said + token + said, "b")])
    [found] = Renderer(tokenizer).render_each([Conversation(messages, "chats.jsonl line 3")])
    assert str(found).startswith("chats.jsonl line 3: message 3 (user) already holds template text `")


@pytest.mark.parametrize("said", ["<", "<think", "<th", ">", "><"])
def test_an_answer_that_begins_as_the_rest_of_the_generation_prompt_does(said):
    chat = Conversation([{"role": "user", "content": "a"}, {"role": "assistant", "content": said}], "x")
    [row] = Renderer(family_tokenizer("deepseek-r1")).render([chat])[0]
    [(start, end)] = row.spans
    assert row.text[start:end] == SAID["deepseek-r1"](said)
