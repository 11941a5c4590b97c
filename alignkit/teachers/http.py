"""Requests to a server that speaks the OpenAI API: JSON in, JSON out, made again where an error may pass.

Standard library only. Redirects are not followed, so that a key goes nowhere but to the address that was given.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from alignkit.console import log
from alignkit.errors import RunError
from alignkit.teachers.recipe import KEY_VARIABLE, Server

PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Status codes after which the same request may succeed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds."""
SHOWN = 300
"""Characters of a server's own words in an error."""


class RefusedError(RunError):
    """The server understood the request and refuses it; ``status`` is its HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A server. Each request has a connection of its own, so threads may share a client."""

    def __init__(self, server: Server, *, where: str) -> None:
        """``where``: the key that a person wrote the section under."""
        assert server.url is not None
        self.server, self.where = server, where
        parts = urlsplit(server.url)
        self._host, self._port = parts.hostname or "", parts.port
        self._secure, self._path = parts.scheme == "https", parts.path.rstrip("/")

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises RefusedError for what will not pass, and RunError where the server cannot be reached or gives no JSON.
        """
        pause = FIRST_PAUSE
        for left in range(self.server.retries, -1, -1):
            try:
                return self._once(path, body)
            except RefusedError as error:
                if error.status not in PASSING or not left:
                    raise
                problem = str(error)
            except (OSError, http.client.HTTPException) as error:
                if not left:
                    raise RunError(
                        f"{self.server.url} cannot be reached ({_told(error)}). Start the server, or write another "
                        f"{self.where}.url; what was done is kept."
                    ) from error
                problem = _told(error)
            log.detail(f"{self.server.url}: {problem}; asking again in {pause:.1f} s")
            # Requests that failed together must not come back together.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")

    def _once(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        connection = self._connection()
        try:
            headers = {"Content-Type": "application/json", "Accept": "application/json"}
            if key := os.environ.get(KEY_VARIABLE):
                headers["Authorization"] = f"Bearer {key}"
            connection.request("POST", self._path + path, json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RefusedError(answer.status, self._refusal(path, answer.status, text))
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RunError(f"{self.server.url}{path} gives no JSON object: {_shown(text)}")
        return found

    def _connection(self) -> http.client.HTTPConnection:
        if self._secure:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self.server.timeout, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self.server.timeout)

    def _refusal(self, path: str, status: int, text: bytes) -> str:
        hint = ""
        if status in (401, 403):
            hint = f" Put a key that it takes into the environment variable {KEY_VARIABLE}."
        elif status == 404:
            hint = f" Look at {self.where}.url (it ends in /v1 with most servers) and {self.where}.model."
        elif 300 <= status < 400:
            hint = f" It sends elsewhere, which is not followed: write that address in {self.where}.url."
        return f"{self.server.url}{path} answers {status}: {_shown(text)}.{hint}"


def _shown(text: bytes) -> str:
    """What a server says of an error: its message, or the beginning of whatever came."""
    try:
        found = json.loads(text)
        error = found.get("error", found)
        said = error.get("message", error) if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        said = text.decode("utf-8", "replace")
    plain = " ".join(str(said).split()).rstrip(".")
    return plain if len(plain) <= SHOWN else f"{plain[:SHOWN]}…"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
