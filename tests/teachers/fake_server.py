"""A server that speaks the OpenAI API, in a thread: a tiny model behind it, and faults on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

Answer = tuple[int, Any]
"""HTTP status and what stands in the body: JSON, or bytes as they are."""


class FakeServer(AbstractContextManager["FakeServer"]):
    """``answer`` gets the path and the request's body. What was asked stands in ``requests``."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Answer]) -> None:
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.requests.append((self.path, body, dict(self.headers)))
                    status, found = answer(self.path, body)
                data = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if 300 <= status < 400:
                    self.send_header("Location", "http://127.0.0.1:9/v1/completions")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Scorer:
    """What a server with a model answers to a request for the log-probabilities of a prompt."""

    def __init__(self, model: Any, tokenizer: Any, *, as_ids: bool = True) -> None:
        """``as_ids``: tokens come back as `token_id:7`, where that is asked for; else as text."""
        self.model, self.tokenizer, self.as_ids = model, tokenizer, as_ids

    def __call__(self, path: str, body: dict[str, Any]) -> Answer:
        assert path == "/v1/completions" and body["echo"] and body["max_tokens"] == 1
        with torch.no_grad():
            log_probs = self.model(torch.tensor([body["prompt"]])).logits[0].float().log_softmax(-1)  # (t, V)
        top: list[Any] = [None]
        for row in log_probs[:-1]:
            values, ids = row.topk(body["logprobs"])
            top.append({self._named(i, body): v for i, v in zip(ids.tolist(), values.tolist(), strict=True)})
        top.append({"the token that was written": -0.1})  # max_tokens=1: one position more than the prompt has
        return 200, {"choices": [{"text": "", "logprobs": {"top_logprobs": top}}]}

    def _named(self, token: int, body: dict[str, Any]) -> str:
        if self.as_ids and body.get("return_tokens_as_token_ids"):
            return f"token_id:{token}"
        return str(self.tokenizer.decode([token]))
