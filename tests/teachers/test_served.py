"""A server as a teacher: the same numbers as from its model, and a sentence for whatever a server does wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alignkit.data.batching import pad
from alignkit.data.prompts import Asked
from alignkit.errors import RequestError, RunError
from alignkit.teachers import http
from alignkit.teachers.answers import Drawing
from alignkit.teachers.recipe import KEY_VARIABLE, Server, server_faults
from alignkit.teachers.served import ServedTeacher
from alignkit.teachers.served_answers import ServedAnswerer
from tests.teachers.fake_server import Answer, FakeServer, Scorer
from tests.tiny import build_model, build_tokenizer


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http.time, "sleep", lambda _: None)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(initializer_range=0.3).eval()


def batch_of_two() -> dict[str, Any]:
    rows = [{"input_ids": [5, 70, 9, 100, 31], "labels": [-100, -100, 9, 100, 31]}]
    rows.append({"input_ids": [8, 90, 7], "labels": [-100, -100, 7]})
    return pad(0)(rows)


def teacher(server: FakeServer, **changes: Any) -> ServedTeacher:
    values = {"top_logprobs": 10, "retries": 2, **changes}
    return ServedTeacher(Server(url=server.url, **values), build_tokenizer(), name="big", entries=10)


def likeliest(model: Any, batch: dict[str, Any], k: int) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    found = logits[batch["labels"][:, 1:] != -100].log_softmax(-1).topk(k)
    return found.indices.numpy(), found.values.numpy()


def test_targets_are_those_of_the_model_behind_it(model: Any) -> None:
    with FakeServer(Scorer(model, build_tokenizer())) as server:
        served = teacher(server)
        served.require_log_probs()
        found = served.targets(batch_of_two())
        assert [body["model"] for _, body, _ in server.requests] == ["big"] * 3
        assert sorted(body["prompt"] for _, body, _ in server.requests[1:]) == [[5, 70, 9, 100, 31], [8, 90, 7]]
    ids, values = likeliest(model, batch_of_two(), 10)
    assert found.ids.tolist() == ids.tolist()
    assert found.log_probs.numpy() == pytest.approx(values, abs=1e-5)


def test_tokens_that_come_back_as_text(model: Any) -> None:
    """Bytes of the upper half have no text of their own: their probability goes to the tail, and no id is guessed."""
    tokenizer = build_tokenizer()
    with FakeServer(Scorer(model, tokenizer, as_ids=False)) as server:
        found = teacher(server, top_logprobs=40).targets(batch_of_two())
    ids, values = likeliest(model, batch_of_two(), 40)
    alone: dict[str, list[int]] = {}
    for token in range(259):
        alone.setdefault(tokenizer.decode([token]), []).append(token)
    for row in range(len(ids)):
        expected = [
            (token, value)
            for token, value in zip(ids[row].tolist(), values[row].tolist(), strict=True)
            if len(alone[tokenizer.decode([token])]) == 1
        ][:10]
        present = torch.isfinite(found.log_probs[row])
        assert found.ids[row][present].tolist() == [token for token, _ in expected]
        assert found.log_probs[row][present].numpy() == pytest.approx([value for _, value in expected], abs=1e-5)
        assert len(set(found.ids[row].tolist())) == 10
    assert any(len(alone[tokenizer.decode([token])]) > 1 for token in ids.ravel().tolist())


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"choices": [{"text": "x"}]}, "`logprobs` is missing"),
        ({"choices": [{"text": "x", "logprobs": None}]}, "`logprobs` is missing"),
        ({"choices": [{"logprobs": {"top_logprobs": None}}]}, "`top_logprobs` is missing"),
        ({"choices": [{"logprobs": {"top_logprobs": [None, {"a": -1.0}]}}]}, "2 positions came for a row of 3 tokens"),
        ({"choices": [{"logprobs": {"top_logprobs": [None, {"a": -1.0}, {}]}}]}, "some positions have none"),
        ({"choices": []}, "no `choices`"),
    ],
)
def test_without_log_probabilities(answer: Any, told: str) -> None:
    with FakeServer(lambda *_: (200, answer)) as server, pytest.raises(RequestError) as caught:
        teacher(server).require_log_probs()
    text = str(caught.value)
    assert text.startswith("cache.server.url: ") and "answers without log-probabilities" in text and told in text


def test_numbers_that_are_no_probabilities() -> None:
    top = [None, {"token_id:5": -0.1, "token_id:6": -0.1}, {"token_id:5": -1.0}]
    answer = {"choices": [{"logprobs": {"top_logprobs": top}}]}
    with FakeServer(lambda *_: (200, answer)) as server, pytest.raises(RunError, match=r"sum to 1\.81"):
        teacher(server).require_log_probs()


def test_what_may_pass_is_asked_again_and_what_will_not_is_told(model: Any) -> None:
    good, failures = Scorer(model, build_tokenizer()), [503, 429]

    def flaky(path: str, body: dict[str, Any]) -> Answer:
        return (failures.pop(), {"error": {"message": "busy"}}) if failures else good(path, body)

    with FakeServer(flaky) as server:
        teacher(server).require_log_probs()
        assert len(server.requests) == 3
    with FakeServer(lambda *_: (503, b"<html>down</html>")) as server:
        with pytest.raises(RunError, match="answers 503: <html>down</html>"):
            teacher(server).targets(batch_of_two())
        assert len(server.requests) >= 3
    refusals = {400: "logprobs at most 5", 401: KEY_VARIABLE, 404: "ends in /v1", 307: "which is not followed"}
    for status, told in refusals.items():
        with FakeServer(lambda *_: (status, {"error": {"message": "logprobs at most 5"}})) as server:  # noqa: B023
            with pytest.raises(RequestError, match=told):
                teacher(server).require_log_probs()
            assert len(server.requests) == 1


def test_nobody_there_and_no_json() -> None:
    server = FakeServer(lambda *_: (200, b"hello"))
    with server, pytest.raises(RunError, match="no JSON object: hello"):
        teacher(server).require_log_probs()
    with pytest.raises(RunError, match="cannot be reached"):
        teacher(server, retries=0).require_log_probs()


def test_the_key_goes_to_the_server_and_nowhere_else(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    with FakeServer(Scorer(model, build_tokenizer())) as server:
        teacher(server).require_log_probs()
        assert server.requests[0][2]["Authorization"] == "Bearer sesame"
        assert "other" not in str(server.requests[0])


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "file:///etc/passwd"])
def test_addresses_that_are_none(url: str) -> None:
    (fault,) = server_faults(Server(url=url), "cache.server")
    assert fault.where == "cache.server.url" and "no address of a server" in fault.what


def test_a_password_in_the_address_is_refused() -> None:
    (fault,) = server_faults(Server(url="https://me:secret@host/v1"), "s")
    assert KEY_VARIABLE in fault.instead and "secret" not in str(fault)


def asked(prompt: Any) -> Asked:
    return Asked(prompt=prompt, ids=[1, 2], where="rows.jsonl line 1")


def test_answers_are_asked_as_they_should_be() -> None:
    def answer(path: str, body: dict[str, Any]) -> Answer:
        if path == "/v1/chat/completions":
            text = f"{body['messages'][-1]['content'].upper()} {body['seed'] % 7}"
            return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
        choice = {"text": body["prompt"][::-1], "finish_reason": "length"}
        return 200, {"choices": [choice], "usage": {"completion_tokens": 3}}

    drawing = Drawing(samples=2, max_new_tokens=9, temperature=0.7, top_p=0.9, seed=1)
    with FakeServer(answer) as server:
        answerer = ServedAnswerer(Server(url=server.url), build_tokenizer(), drawing, name="big")
        prompts = [asked([{"role": "user", "content": "hi"}]), asked("abc")]
        first, second = answerer.answers(prompts, [4, 9])
        again = answerer.answers(prompts[:1], [4])
        bodies = [body for _, body, _ in server.requests]
    assert all(one.text.startswith("HI") and one.finished for one in first)
    assert [one.text for one in second] == ["cba", "cba"] and not second[0].finished and second[0].tokens == 3
    assert first[0].tokens == len("HI ") + 1  # a byte is a token there
    assert again == [first], "what is drawn depends on the prompt's number"
    assert all(body["max_tokens"] == 9 and body["temperature"] == 0.7 and body["top_p"] == 0.9 for body in bodies)
    assert len({body["seed"] for body in bodies}) == 4


def test_a_vendor_that_calls_the_limit_otherwise() -> None:
    def answer(path: str, body: dict[str, Any]) -> Answer:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Use 'max_completion_tokens' instead."}}
        return 200, {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}

    with FakeServer(answer) as server:
        answerer = ServedAnswerer(Server(url=server.url, parallel=1), build_tokenizer(), Drawing(), name="big")
        found = answerer.answers([asked([{"role": "user", "content": str(n)}]) for n in range(3)], range(3))
        assert [row[0].text for row in found] == ["yes"] * 3
        assert len(server.requests) == 4


def test_an_answer_without_text() -> None:
    with FakeServer(lambda *_: (200, {"choices": []})) as server:
        answerer = ServedAnswerer(Server(url=server.url), build_tokenizer(), Drawing(), name="big")
        with pytest.raises(RunError, match="without text in its `choices`"):
            answerer.answers([asked("a")], [0])
