"""What is left of rows over the length: exchanges go from the front, and nothing loses what it belongs to."""

from __future__ import annotations

from alignkit.data.encoding.lengths import cut_end, pieces, shorter
from alignkit.data.rows import Conversation, Encoded, Message

CALL: Message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


def chat(*roles: str) -> list[Message]:
    return [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]


def test_exchanges_go_from_the_front_and_the_system_prompt_stays() -> None:
    messages = chat("system", "user", "assistant", "user", "assistant", "user", "assistant")
    found = [less.messages for less in shorter(Conversation(messages, "x"), 6)]
    assert found == [[messages[0], *messages[3:]], [messages[0], *messages[5:]]]


def test_what_comes_after_the_answer_in_question_is_left_out() -> None:
    messages = chat("user", "assistant", "user", "assistant", "user", "assistant")
    assert [less.messages for less in shorter(Conversation(messages, "x"), 3)] == [messages[2:4]]


def test_a_tool_result_keeps_its_call_and_weights_keep_their_messages() -> None:
    messages = [*chat("user", "assistant", "user"), CALL, *chat("tool", "assistant"), *chat("user", "assistant")]
    given = Conversation(messages, "x", tools=[{"name": "f"}], weights=(0.0, 1.0, 0.0, 0.5, 0.0, 2.0, 0.0, 3.0))
    found = list(shorter(given, 7))
    assert [less.messages for less in found] == [messages[2:], messages[6:]]
    assert [less.weights for less in found] == [(0.0, 0.5, 0.0, 2.0, 0.0, 3.0), (0.0, 3.0)]
    assert found[0].tools == given.tools


def test_the_last_exchange_is_never_shortened() -> None:
    assert list(shorter(Conversation(chat("system", "user", "assistant"), "x"), 2)) == []


def test_pieces_hold_every_token_once_and_begin_with_the_prefix() -> None:
    row = Encoded([1, *range(10, 33)], [-100, *range(10, 33)], "book.txt")
    cut = pieces(row, 8, [1])
    assert [token for piece in cut for token in piece.input_ids[1:]] == list(range(10, 33))
    assert all(piece.input_ids[0] == 1 and len(piece) <= 8 for piece in cut)
    assert all(piece.labels == [-100, *piece.input_ids[1:]] for piece in cut)
    assert cut[1].where == "book.txt, piece 2 of 4"
    assert cut_end(row, 5).input_ids == row.input_ids[:5]
