"""The short way to rendered conversations: taken where it is right, left where it is not."""

from __future__ import annotations

import pytest

from alignkit.data.encoding import outline
from alignkit.data.encoding.outline import CHECKED, FIRST, OutlinesDiffer, looked_for
from alignkit.data.encoding.rendering import Renderer
from alignkit.data.rows import Conversation
from tests.data import families
from tests.data.families import family_tokenizer
from tests.data.templates import STRIPS_THINKING
from tests.tiny import CHATML, build_tokenizer

MOODS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if messages[-1]['content'] | length < 20 %}{{ '\n' }}{% endif %}{% endif %}"
)
"""Only the generation prompt depends on a content, by a test that no one can see coming."""

SWITCH = MOODS.replace("messages[-1]['content'] | length < 20", "'/no_think' not in messages[-1]['content']")


def chat(question="q", answer="a", *, where="x", turns=1):
    pair = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(pair * turns, where)


def counted(tokenizer, monkeypatch):
    """A list that grows by the number of texts each time that conversations go turn by turn."""
    calls: list[int] = []
    real = type(tokenizer).apply_chat_template

    def spy(self, batch, **options):
        calls.append(len(batch))
        return real(self, batch, **options)

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", spy)
    return calls


@pytest.mark.parametrize("turns", [1, 3])
def test_rows_do_not_go_turn_by_turn(turns, monkeypatch):
    renderer = Renderer(build_tokenizer())
    renderer.render([chat(turns=turns)] * (FIRST + 2))
    calls = counted(renderer.tokenizer, monkeypatch)
    rows = renderer.render([chat(f"question {n}", f"answer {n}", turns=turns) for n in range(20)])
    assert sum(calls) == 0
    assert [row.text[slice(*row.spans[-1])] for [row] in rows] == [f"answer {n}<|im_end|>" for n in range(20)]
    assert rows == Renderer(renderer.tokenizer, outlines=False).render([row.document for [row] in rows])


def test_one_row_in_64_goes_both_ways(monkeypatch):
    renderer = Renderer(build_tokenizer())
    renderer.render([chat()] * (FIRST + 1))
    calls = counted(renderer.tokenizer, monkeypatch)
    renderer.render([chat()] * (2 * CHECKED))
    assert sum(calls) == 2 * 2


def test_answers_in_rows_of_their_own_take_the_short_way_too(monkeypatch):
    tokenizer = family_tokenizer("qwen3")
    renderer = Renderer(tokenizer)
    renderer.render([chat(turns=2)] * (FIRST + 2))
    calls = counted(tokenizer, monkeypatch)
    [rows] = renderer.render([chat("one", "two", turns=2)])
    assert sum(calls) == 0
    assert len(rows) == 2
    assert [rows] == Renderer(tokenizer, outlines=False).render([chat("one", "two", turns=2)])


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (CHATML, ()),
        (STRIPS_THINKING, ("</think>",)),
        (SWITCH, ("/no_think",)),
        (families.QWEN3, ("</think>", "<think>")),
        ("{% if m.content.startswith(\"<tool>\") and 'tool_calls' in m %}", ("<tool>",)),
    ],
)
def test_what_a_template_looks_for(template, found):
    assert looked_for(template) == found


@pytest.mark.parametrize(
    ("template", "special"),
    [(SWITCH, "why? /no_think"), (STRIPS_THINKING, "<think>x</think>y"), (families.LLAMA3, " \n spaces \t")],
)
def test_contents_that_change_the_frame_are_rendered_as_ever(template, special):
    tokenizer = build_tokenizer(template)
    chats = [chat(turns=2)] * (FIRST + 2) + [chat(special, turns=2), chat("q", special, turns=2), chat(turns=2)]
    short, slow = Renderer(tokenizer), Renderer(tokenizer, outlines=False)
    assert short.render(chats) == slow.render(chats)
    assert short.notes == slow.notes


def test_a_difference_is_the_end_of_the_short_way():
    tokenizer = build_tokenizer(MOODS)
    long = chat("a question of more than twenty characters")
    renderer = Renderer(tokenizer)
    renderer.render([chat()] * FIRST)  # the outline is made by the next row, which is checked
    rows = renderer.render([long, chat(), chat()])
    assert not renderer.conversations.on
    assert rows == Renderer(tokenizer, outlines=False).render([long, chat(), chat()])
    assert renderer.render([long]) == rows[:1]


def test_a_difference_that_comes_late_is_an_error_that_names_the_row():
    tokenizer = build_tokenizer(MOODS)
    renderer = Renderer(tokenizer)
    renderer.render([chat()] * (FIRST + CHECKED))
    long = chat("a question of more than twenty characters", where="chats.jsonl line 68")
    with pytest.raises(OutlinesDiffer, match=r"chats\.jsonl line 68.*otherwise than 63 rows"):
        renderer.render([long])


def test_outlines_are_bounded(monkeypatch):
    monkeypatch.setattr(outline, "MOST", 2)
    renderer = Renderer(build_tokenizer())
    chats = [chat(turns=turns) for turns in (1, 2, 3, 4) for _ in range(FIRST + 2)]
    assert renderer.render(chats) == Renderer(renderer.tokenizer, outlines=False).render(chats)
    assert len(renderer.conversations._outlines) == 2


def test_a_refused_row_does_not_spoil_its_batch():
    tokenizer = family_tokenizer("llama2")
    good, bad = chat(turns=2), Conversation([*chat().messages, *chat().messages[1:]], "bad line 2")
    renderer = Renderer(tokenizer)
    renderer.render([good] * 6)
    first, fault, last = renderer.render_each([good, bad, good])
    assert "bad line 2: the model's chat template refuses this conversation" in str(fault)
    assert first == last == Renderer(tokenizer, outlines=False).render([good])[0]
