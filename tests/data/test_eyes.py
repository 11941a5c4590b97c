"""What is shown of data is what a trainer gets: marks, counts, roles, faults."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.config.sections import Data
from alignkit.data.eyes.edges import turn_edges
from alignkit.data.eyes.examine import examine, heading
from alignkit.data.eyes.page import page
from alignkit.data.eyes.preview import preview
from alignkit.data.eyes.rewrite import rewrite
from alignkit.data.eyes.screen import Style, legend, lines, visible
from alignkit.data.eyes.stats import gather
from alignkit.data.eyes.tables import histogram, tables
from alignkit.data.eyes.tokens import Viewer, stretches, token_starts, token_texts
from alignkit.data.eyes.views import Look, Piece, Turn, View
from alignkit.data.rows import (
    Completion,
    Conversation,
    Document,
    Encoded,
    Feedback,
    Labelled,
    Message,
    Preference,
    Prompt,
    Ranking,
    Text,
)
from alignkit.errors import Fault, RequestError
from tests.data.templates import NO_SYSTEM, STRIPS_THINKING
from tests.tiny import CHATML, build_tokenizer

DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
)
PLAIN = Style(colour=False, tokens=True)


def chat(*turns: str, where: str = "a.jsonl line 1", **more: Any) -> Conversation:
    roles = ("user", "assistant")
    return Conversation([{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)], where, **more)


def write_rows(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def good(question: str = "q", answer: str = "a") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def text_of(turns: list[Turn], *, trained: bool | None = None) -> str:
    pieces = (piece for turn in turns for piece in turn.pieces)
    return "".join(piece.text for piece in pieces if trained is None or piece.trained is trained)


def look(document: Document, template: str = CHATML, **options: Any) -> Look:
    return Viewer(Data(name="x", **options), build_tokenizer(template)).look(document)


def test_a_conversation_by_turn() -> None:
    [view] = look(chat("hi", "yes\nno", "more", "ok"), DEFAULT_SYSTEM).views
    assert [turn.role for turn in view.turns] == ["template", "user", "assistant", "user", "assistant"]
    assert text_of(view.turns[:1]) == "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert text_of(view.turns[1:2]) == "<|im_start|>user\nhi<|im_end|>\n"
    assert text_of(view.turns, trained=True) == "yes\nno<|im_end|>ok<|im_end|>"
    assert [piece.text for piece in view.turns[4].pieces if piece.special] == ["<|im_start|>", "<|im_end|>"]
    # One token a byte and one a special token.
    assert [turn.tokens for turn in view.turns] == [18, 10, 19, 12, 14]
    assert (view.tokens, view.trained) == (73, 7 + 3)


def test_lines_mark_what_is_trained_on_every_line() -> None:
    shown = list(lines(look(chat("hi", "yes\nno")), PLAIN))
    assert shown == [
        "a.jsonl line 1 · conversation · 28 tokens, 7 trained (25%)",
        "         user      10 │ <|im_start|>user⏎",
        "                      │ hi<|im_end|>⏎",
        "    assistant      18 │ <|im_start|>assistant⏎",
        "                      │ ⟦yes⏎⟧",
        "                      │ ⟦no<|im_end|>⟧",
    ]
    assert "⟦" in "".join(text for text, _ in legend(PLAIN))


def test_preference_shows_both_answers_and_trains_only_them() -> None:
    prompt: list[Message] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "earlier"},
        {"role": "user", "content": "and?"},
    ]
    better, worse = [{"role": "assistant", "content": "good"}], [{"role": "assistant", "content": "bad"}]
    found = look(Preference(prompt, better, worse, "p line 1", chosen_score=8.5, rejected_score=2.0))
    assert [view.name for view in found.views] == ["chosen", "rejected"]
    assert [text_of(view.turns, trained=True) for view in found.views] == ["good<|im_end|>", "bad<|im_end|>"]
    assert found.facts == ["chosen scored 8.5", "rejected scored 2"]


@pytest.mark.parametrize(
    ("document", "trained", "fact"),
    [
        (Completion("ask: ", "reply", "w"), ["reply<|im_end|>"], None),
        (Text("words", "w"), ["ords<|im_end|>"], None),  # nothing stands before the first token to predict it
        (
            Feedback([{"role": "user", "content": "q"}], [{"role": "assistant", "content": "a"}], False, "w"),
            ["a<|im_end|>"],
            "not wanted",
        ),
        (Ranking("q: ", ("best", "worst"), "w", (2.0, 1.0)), ["best<|im_end|>", "worst<|im_end|>"], "scores 2, 1"),
        (Prompt([{"role": "user", "content": "q"}], "w", "42"), [""], "answer to compare with: 42"),
        (Labelled("a film", "good", "w"), [""], "label good"),
    ],
)
def test_every_kind(document: Document, trained: list[str], fact: str | None) -> None:
    found = look(document)
    assert not found.trouble
    assert [text_of(view.turns, trained=True) for view in found.views] == trained
    assert fact is None or fact in found.facts
    bare = Viewer(Data(name="x"), None).look(document)
    assert len(bare.views) == len(found.views)
    assert all(view.tokens == 0 and view.characters for view in bare.views)
    said = "\n".join(lines(bare, Style(colour=False, tokens=False)))
    assert "token" not in said and "⟦" not in said


def test_a_prompt_ends_where_generation_begins() -> None:
    [view] = look(Prompt([{"role": "user", "content": "q"}], "w")).views
    assert text_of(view.turns).endswith("<|im_start|>assistant\n")


def test_tools_and_calls_are_shown_as_the_template_writes_them() -> None:
    from alignkit.data.templates.install import install

    tokenizer = install(build_tokenizer(None), "chatml").tokenizer
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    document = Conversation(
        [
            {"role": "user", "content": "1+1"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": "two"},
        ],
        "w",
        tools=[{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}],
    )
    found = Viewer(Data(name="x"), tokenizer).look(document)
    assert found.facts == ["tools: add"] and not found.trouble
    [view] = found.views
    assert [turn.role for turn in view.turns] == ["template", "user", "assistant", "tool", "assistant"]
    assert "add" in text_of(view.turns[:1]) and not view.turns[0].trained and not view.turns[3].trained
    assert '"add"' in text_of(view.turns[2:3], trained=True) and view.turns[4].trained == 4
    bare = Viewer(Data(name="x"), None).look(document)
    assert "add({'a': 1})" in text_of(bare.views[0].turns)


def test_loss_weights_stand_in_the_margin() -> None:
    found = look(chat("a", "one", "b", "two\nlines", weights=(0, 0.5, 0, 2)))
    shown = list(lines(found, PLAIN))
    assert sum("loss ×0.5" in line for line in shown) == 1
    assert next(line for line in shown if "loss ×2" in line).endswith("⟦two⏎⟧")
    unweighted = "\n".join(lines(look(chat("a", "one")), PLAIN))
    assert "loss" not in unweighted


def test_a_template_that_rewrites_earlier_turns_shows_a_text_for_each_answer() -> None:
    found = look(chat("a", "<think>x</think>one", "b", "<think>y</think>two"), STRIPS_THINKING)
    assert [view.name for view in found.views] == ["text 1 of 2", "text 2 of 2"]
    assert text_of(found.views[1].turns, trained=True) == "<think>y</think>two<|im_end|>"


def test_a_row_with_a_fault_is_shown_with_it() -> None:
    document = Conversation(
        [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}],
        "f.jsonl line 9",
    )
    found = look(document, NO_SYSTEM)
    assert "System role not supported" in found.trouble and "f.jsonl line 9" not in found.trouble
    assert [turn.role for turn in found.views[0].turns] == ["system", "user", "assistant"]
    shown = list(lines(found, PLAIN))
    assert any(line.lstrip().startswith("fault") for line in shown)
    assert any(line.endswith("user         │ u") for line in shown)  # as text: no count of tokens


@pytest.mark.parametrize(
    ("rule", "fate", "texts", "tokens"),
    [("drop", "left out of training", 1, 46), ("truncate", "cut", 1, 10), ("split", "cut into 5 pieces", 4, 9)],
)
def test_a_row_that_is_too_long_says_what_becomes_of_it(rule: Any, fate: str, texts: int, tokens: int) -> None:
    found = look(Text("x" * 45, "w"), max_length=10, overlength=rule)
    assert len(found.views) == texts
    assert any("46 tokens" in fact and fate in fact for fact in found.facts)
    assert found.views[0].tokens == tokens and not found.trouble


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_token_texts_are_the_text(text: str) -> None:
    tokenizer = build_tokenizer()
    text = text.replace("<|", "")
    special = frozenset({0, 1, 2})
    ids = [1, *tokenizer(text, add_special_tokens=False)["input_ids"], 2]
    decoded = token_texts(tokenizer, ids, special)
    assert len(decoded) == len(ids)
    assert "".join(decoded) == f"<|im_start|>{text}<|im_end|>"
    starts = token_starts(decoded, "".join(decoded))
    assert starts == sorted(starts)
    row = Encoded(ids, [-100, *ids[1:]], "w")
    pieces = list(stretches(tokenizer, row, special))
    assert "".join(piece.text for piece in pieces) == "".join(decoded)
    assert [sum(p.tokens for p in pieces), sum(p.tokens for p in pieces if p.trained)] == [len(ids), len(ids) - 1]


def test_turns_that_a_template_runs_together_are_named_together() -> None:
    template = (  # Llama 2's habit: the system prompt stands inside the first user turn, and alone it is refused
        "{% if messages[0]['role'] == 'system' %}{% if messages | length < 2 %}{{ raise_exception('no') }}{% endif %}"
        "{% set system = messages[0]['content'] + ' ' %}{% set rest = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{% if m['role'] == 'user' %}"
        "[INST] {{ system if loop.first else '' }}{{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    text = "[INST] s u [/INST] a<|im_end|>"
    assert turn_edges(build_tokenizer(template), messages, text) == [("system + user", 0), ("assistant", 18)]


def test_turns_that_a_template_rewrites_are_told_apart_by_their_content() -> None:
    ends = CHATML.replace("{% endfor %}", "{% endfor %}{% if not add_generation_prompt %}<|endoftext|>{% endif %}")
    messages = chat("one", "two", "three", "four").messages
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|endoftext|>"
    starts = [text.index(f"<|im_start|>{m['role']}\n{m['content']}") for m in messages]
    assert turn_edges(build_tokenizer(ends), messages, text) == list(
        zip(("user", "assistant", "user", "assistant"), starts, strict=True)
    )


def test_nothing_in_a_row_steers_the_terminal() -> None:
    assert visible("a\x1b[31m\tb\r\u202e\x00é日") == "a\\x1b[31m→ b\\r\\u202e\\x00é日"
    view = View("", [Turn("user", [Piece("x\x1b[2J", tokens=1)])])
    assert "\x1b" not in "\n".join(lines(Look("w", "k", [view]), PLAIN))


def test_the_middle_of_a_long_turn_is_left_out_unless_all_is_asked_for() -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    view = View("", [Turn("user", [Piece(text, trained=True, tokens=10)])])
    short = "\n".join(lines(Look("w", "k", [view]), PLAIN))
    full = "\n".join(lines(Look("w", "k", [view]), Style(colour=False, tokens=True, full=True)))
    assert "characters are not shown" in short and len(short) < len(full) / 3 and "line 999" in short
    assert "not shown" not in full and full.count("⟦line ") == 1000


def test_preview_chooses_rows(tmp_path: Path) -> None:
    data = Data(name=write_rows(tmp_path / "r.jsonl", [good(f"q{number}") for number in range(50)]))

    def questions(**options: Any) -> list[str]:
        return [one.views[0].turns[0].pieces[0].text for one in preview(data, None, **options).looks]

    assert questions() == ["q0", "q1", "q2"]
    assert questions(row=50, n=5) == ["q49"]
    drawn = questions(seed=1, n=5)
    assert drawn == questions(seed=1, n=5) != questions(seed=2, n=5)
    assert len(set(drawn)) == 5 and drawn == sorted(drawn, key=lambda q: int(q[1:]))
    with pytest.raises(RequestError, match="has no row 51"):
        preview(data, None, row=51)
    found = preview(data, None)
    assert found.said == ["r.jsonl: chat messages (column messages)"]
    assert found.looks[0].where == "r.jsonl line 1"


def test_a_source_in_no_known_format_is_refused(tmp_path: Path) -> None:
    data = Data(name=write_rows(tmp_path / "u.jsonl", [{"foo": 1}]))
    with pytest.raises(RequestError, match="foo"):
        preview(data, None)
    broken_first = Data(name=write_rows(tmp_path / "b.jsonl", ["{broken", good("q")]))
    first, second = preview(broken_first, None).looks
    assert "JSON" in first.trouble and text_of(second.views[0].turns) == "qa"
    with pytest.raises(RequestError, match="no row in it"):
        preview(Data(name=write_rows(tmp_path / "e.jsonl", [])), None)


def test_preview_as_another_kind(tmp_path: Path) -> None:
    row = {"prompt": "q: ", "chosen": "good", "rejected": "bad"}
    data = Data(name=write_rows(tmp_path / "p.jsonl", [row]))
    [shown] = preview(data, None, wants="demonstration").looks
    assert [text_of(view.turns) for view in shown.views] == ["q: good"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_escaped() -> None:
    found = look(chat("<script>alert(1)</script>&", "fine </td>"))
    html = page("data <b>", ['read as "chats" <i>'], [found], tokens=True)
    parsed = _Tags()
    parsed.feed(html)
    assert parsed.open == []
    assert not {"script", "img", "link", "b", "i"} & {tag for tag, _ in parsed.tags}
    assert not any("src" in attributes or "href" in attributes for _, attributes in parsed.tags)
    assert "<script>alert(1)</script>&" in parsed.text
    assert "prefers-color-scheme: dark" in html
    assert '<span class="trained">fine &lt;/td&gt;</span><span class="trained special">&lt;|im_end|&gt;</span>' in html


def test_stats_with_tokens(tmp_path: Path) -> None:
    rows = [good("q" * number, "a") for number in range(1, 21)] + [good("q", "a"), good("", "x" * 300), "{broken"]
    rows[-2] = {"messages": [{"role": "user", "content": "q"}]}
    data = Data(name=write_rows(tmp_path / "r.jsonl", rows), max_length=40)
    [found] = gather(data, build_tokenizer())
    assert (found.read, found.documents, found.exact) == (23, 21, 1)
    assert sum(found.faults.values()) == 2
    base = len("user\n") + len("assistant\n") + 1 + 5  # line break, 4 special tokens but the last break
    lengths = sorted(found.tokens[""])
    assert lengths[0] == lengths[1] and lengths[-1] - lengths[0] == 19 and lengths[0] > base
    kept = [length for length in lengths if length <= 40]
    assert sorted(found.kept) == kept and sum(found.dropped.values()) == 21 - len(kept) == found.over
    assert list(found.trained) == [2] * len(kept)
    assert found.longest[0] == (lengths[-1], "r.jsonl line 20")
    assert sum(found.roles.values()) >= sum(lengths)  # the break behind the last turn is in the template's text
    told = json.loads(json.dumps(found.as_dict()))
    assert told["rows"] == 23 and told["tokens"]["row"]["max"] == lengths[-1] and told["exact_duplicates"] == 1
    assert any("training would refuse this" in note for note in found.notes) is (found.over > 0.1 * 21)


def test_stats_without_a_model_and_its_tables(tmp_path: Path) -> None:
    pair = {"prompt": "q: ", "chosen": "good", "rejected": "bad"}
    rows = [{**pair, "prompt": f"{number} "} for number in range(30)] + [{**pair, "prompt": "3 "}]
    [found] = gather(Data(name=write_rows(tmp_path / "p.jsonl", rows)), None, near=0.8)
    assert dict(found.kinds) == {"preference": 31} and found.exact == 1 and found.near == 1
    assert not found.has_tokens and found.tokens == {}
    headings = {table.heading: table.rows for table in tables(found)}
    assert headings["rows"][0][:2] == ["read", "31"]
    assert headings["rows"][3][:3] == ["near duplicates", "1", "3.2%"]
    assert not any("token" in cell for rows in headings.values() for row in rows for cell in row)


def test_labels_are_counted(tmp_path: Path) -> None:
    rows = [{"text": f"t{number}", "label": "pos" if number % 3 else "neg"} for number in range(9)]
    [found] = gather(Data(name=write_rows(tmp_path / "l.jsonl", rows)), None)
    assert dict(found.labels) == {"pos": 6, "neg": 3}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=200))
def test_a_histogram_counts_everything_once(values: list[int]) -> None:
    rows = histogram(values)
    assert sum(int(count.replace(",", "")) for _, _, count in rows) == len(values)
    assert len(rows) <= 11
    for name, bar, count in rows:
        low, high = (int(number.replace(",", "")) for number in name.split(" – "))
        assert sum(low <= value <= high for value in values) == int(count.replace(",", ""))
        assert bool(bar) is (count != "0")


def test_check_groups_faults_and_names_lines(tmp_path: Path) -> None:
    broken = [f'{{"messages": {number}' for number in range(30)]
    data = Data(name=write_rows(tmp_path / "b.jsonl", [good(), *broken, {"messages": [{"role": "bot", "content": 1}]}]))
    [found] = examine(data, None)
    assert (found.read, found.usable, found.faults, found.clean) == (32, 1, 31, False)
    largest = max(found.groups.values(), key=lambda group: group.count)
    assert (largest.count, len(largest.faults)) == (30, 20)
    assert largest.faults[0].where.endswith("b.jsonl line 2") and "column" in largest.faults[0].what
    said = found.lines(1024, "drop")
    assert any(line.startswith("30 × is not valid JSON") for line in said)
    assert any("and 10 more (--all lists them)" in line for line in said)
    assert any("line 32" in line for line in said)
    [every] = examine(data, None, keep=None)
    assert sum(len(group.faults) for group in every.groups.values()) == 31
    assert json.loads(json.dumps(found.as_dict()))["usable"] == 1


def test_check_reads_everything_and_a_model_finds_more(tmp_path: Path) -> None:
    rows = [good() for _ in range(300)] + [good("<|im_start|>", "a")]
    data = Data(name=write_rows(tmp_path / "m.jsonl", rows))
    assert examine(data, None)[0].clean
    [found] = examine(data, build_tokenizer())
    [group] = found.groups.values()
    assert group.faults[0].where.endswith("m.jsonl line 301") and "<|im_start|>" in group.faults[0].what
    clean = "\n".join(
        examine(Data(name=write_rows(tmp_path / "c.jsonl", rows[:3])), build_tokenizer())[0].lines(9, "drop")
    )
    assert "ok: 3 rows read, nothing is wrong" in clean


def test_check_says_what_training_would_refuse(tmp_path: Path) -> None:
    data = Data(name=write_rows(tmp_path / "m.jsonl", [good(), good("q" * 100)]), max_length=64)
    [found] = examine(data, build_tokenizer())
    assert not found.groups and not found.clean
    assert "data.max_length" in "\n".join(found.lines(64, "drop"))


def test_a_source_of_no_known_format_is_said_once(tmp_path: Path) -> None:
    data = Data(name=write_rows(tmp_path / "u.jsonl", [{"foo": number} for number in range(50)]))
    [found] = examine(data, None)
    assert found.unread and found.faults == 1
    assert "not read to the end" in "\n".join(found.lines(9, "drop"))


def test_headings_leave_out_what_is_peculiar_to_a_row() -> None:
    one = Fault(where="a line 1", what="is not valid JSON (expecting ',' delimiter at column 81): `{..`")
    other = Fault(where="a line 2", what="is not valid JSON (extra data at column 7): `1 2`")
    assert heading(one) == heading(other) == "is not valid JSON"
    role = heading(Fault(where="a", what="has the unknown role `robot`"))
    assert role == heading(Fault(where="b", what="has the unknown role `bot2`")) != heading(one)


def test_rewrite_keeps_what_can_be_used(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "s.jsonl", [good("a"), "{broken", good("b")])
    target = tmp_path / "out.jsonl"
    with pytest.raises(RequestError, match=r"s\.jsonl line 2"):
        rewrite(Data(name=source), target, "messages")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.jsonl"]
    told = rewrite(Data(name=source, on_error="skip"), target, "messages")
    assert "wrote 2 rows as messages" in told and any("skipped 1 row" in line for line in told)
    assert [json.loads(line) for line in target.read_text().splitlines()] == [good("a"), good("b")]
    [skipped] = (json.loads(line) for line in (tmp_path / "out.jsonl.skipped.jsonl").read_text().splitlines())
    assert skipped["where"].endswith("s.jsonl line 2") and "{broken" in skipped["row"] and skipped["what"]
    with pytest.raises(RequestError, match="is there already"):
        rewrite(Data(name=source), target, "messages")
    clean = write_rows(tmp_path / "s.jsonl", [good("a")])
    rewrite(Data(name=clean), target, "messages", force=True)
    assert not (tmp_path / "out.jsonl.skipped.jsonl").exists()  # it told of other rows
    assert len(target.read_text().splitlines()) == 1


def test_rewrite_converts_where_that_is_honest(tmp_path: Path) -> None:
    source = write_rows(
        tmp_path / "p.jsonl", [{"prompt": "q", "completion": "a", "label": number % 2 == 0} for number in range(4)]
    )
    told = rewrite(Data(name=source), tmp_path / "out.jsonl", "prompt-completion")
    assert any("left out" in line for line in told) and "wrote 2 rows as prompt-completion" in told
    with pytest.raises(RequestError, match="preference"):
        rewrite(Data(name=source), tmp_path / "pairs.jsonl", "preference")


def test_rows_of_no_format_are_skipped_as_in_training(tmp_path: Path) -> None:
    name = write_rows(tmp_path / "a.jsonl", [{"foo": 1}, *[good()] * 9])
    [stopped] = examine(Data(name=name), None)
    assert stopped.unread
    [found] = examine(Data(name=name, on_error="skip"), None)
    assert (found.read, found.faults, found.usable, found.unread) == (10, 1, 9, False)
    [stats] = gather(Data(name=name, on_error="skip"), None)
    assert (stats.read, stats.documents) == (10, 9)
    rewrite(Data(name=name, on_error="skip"), tmp_path / "b.jsonl", "messages")
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 9
    hopeless = write_rows(tmp_path / "c.jsonl", [{"foo": 1}] * 3)
    with pytest.raises(RequestError, match="line 1: the columns are foo"):
        rewrite(Data(name=hopeless, on_error="skip"), tmp_path / "d.jsonl", "messages")
    assert not (tmp_path / "d.jsonl").exists()


def test_splitting_conversations_is_refused_here_too(tmp_path: Path) -> None:
    section = Data(name=write_rows(tmp_path / "a.jsonl", [good()]), overlength="split")
    [found] = examine(section, None)
    assert "split cuts raw text" in str(found.refused)
    assert any("training would refuse this" in note for note in gather(section, None)[0].notes)
