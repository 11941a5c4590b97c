"""Rows through a converter, and the small messages that the tests of formats are made of."""

from __future__ import annotations

import pickle

from alignkit.config.sections import DataSource
from alignkit.data.formats.converter import plan
from alignkit.data.rows import Row

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
FIRST = "f.jsonl line 1"


def converter(values, wants="demonstration", **source):
    """A converter as another process gets it."""
    found = plan(DataSource(name="f.jsonl", **source), wants, Row(values, FIRST))
    return pickle.loads(pickle.dumps(found))


def convert(wants="demonstration", **values):
    (document,) = converter(values, wants)(Row(values, FIRST))
    return document


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "2", "tool_call_id": "c1"}
SCHEMA = {"name": "add", "parameters": {"type": "object"}}
