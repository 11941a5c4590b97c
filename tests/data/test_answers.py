"""Exact match: JSON as values, numbers as numbers, text as text."""

from __future__ import annotations

import pytest

from alignkit.data.answers import matches


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ('{"b": [1, {"c": null}], "a": "x"}', '{"a":"x","b":[1,{"c":null}]}', True),
        (' {"a": 1.0}\n', '{"a": 1}', True),
        ('{"a": true}', '{"a": 1}', False),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": 1, "b": 2}', '{"a": 1}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": 2, "a": 1}', '{"a": 1}', False),
        ('{"a": NaN}', '{"a": 1}', False),
        ('Here you go: {"a": 1}', '{"a": 1}', False),
        ('```json\n{"a": 1}\n```', '{"a": 1}', False),
        ("", '{"a": 1}', False),
        ("She sold 24 clips, so 72 in all.\n#### 72", "72", True),
        ("The answer is 72.", "72", True),
        ("It costs $1,000.50", "1000.5", True),
        ("72", "#### 72", True),
        ("#### 72 clips, not 48", "steps: 1 + 2\n#### 72", True),
        ("72 and then 73", "72", False),
        ("x72", "72", False),
        ("-5", "5", False),
        ("9-4", "4", True),
        ("none", "72", False),
        ("#### none, though 72", "72", True),
        ("$18", "$18.00", True),
        ("Paris.", " paris", True),
        ("Paris,  France", "paris, france", True),
        ("London", "Paris", False),
        ("[1, 2]", "[1,2]", False),
        ("call 1-800", "call 1-800", True),
    ],
)
def test_matches(answer, reference, same):
    assert matches(answer, reference) is same
