"""What may be asked of a student, and what combinations are refused."""

from __future__ import annotations

from typing import Any

import pytest

from alignkit.models.students.recipe import Student


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "layers", "layers": 6},
        {"kind": "layers", "layers": [0, 2, 4]},
        {"kind": "layers", "fraction": 0.5},
        {"kind": "depth", "parameters": 80_000_000},
        {"kind": "width", "fraction": 0.5},
        {"kind": "width", "layers": 12, "parameters": 80_000_000, "prune": ["mlp"]},
        {"kind": "layers", "layers": 6, "init": "random"},
    ],
)
def test_whole_requests(options: dict[str, Any]) -> None:
    assert list(Student(**options).faults()) == []


@pytest.mark.parametrize(
    ("options", "where", "what"),
    [
        ({"layers": 6}, "layers", "the student is given by model"),
        ({"init": "random"}, "init", "given by model"),
        ({"kind": "layers"}, "", "needs a size"),
        ({"kind": "depth", "layers": 3, "fraction": 0.5}, "fraction", "already"),
        ({"kind": "width"}, "", "needs a size"),
        ({"kind": "width", "layers": 3}, "", "needs a size"),
        ({"kind": "width", "parameters": 9, "fraction": 0.5}, "", "both"),
        ({"kind": "width", "fraction": 0.5, "prune": []}, "prune", "empty"),
        ({"kind": "width", "fraction": 0.5, "prune": ["mlp", "mlp"]}, "prune", "twice"),
        ({"kind": "depth", "layers": [0, 1]}, "layers", "chooses the layers itself"),
        ({"kind": "layers", "layers": []}, "layers", "rising list"),
        ({"kind": "layers", "layers": [2, 1]}, "layers", "rising list"),
        ({"kind": "layers", "layers": [-1, 1]}, "layers", "rising list"),
    ],
)
def test_refused_requests(options: dict[str, Any], where: str, what: str) -> None:
    faults = list(Student(**options).faults("made"))
    assert [fault.where for fault in faults] == [f"made.{where}".rstrip(".")]
    assert what in faults[0].what and faults[0].instead


def test_data_is_looked_at_only_where_it_decides() -> None:
    assert Student(kind="width", fraction=0.5).measured and Student(kind="depth", layers=2).measured
    assert not Student(kind="layers", layers=2).measured and not Student().measured
    assert not Student(kind="depth", layers=2, init="random").measured
