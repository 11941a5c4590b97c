"""What a section said of its old `name` does not hold for a new one.

A parent recipe that starts from `smollm2-135m` names the file of an installed package; a child, or the command line,
that names another model must not get that file. Fields with the mark `of_name` are dropped when a later layer changes
the section's name and says nothing of them itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alignkit.config.schema import Schema


def stale_keys(schema: Schema, laid: Iterable[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose value was said of another name; `laid` are whole trees, in the order in which they win."""
    sections = {leaf.key.rpartition(".")[0] for leaf in schema.leaves.values() if leaf.of_name}
    stale: dict[str, bool] = {}
    names: dict[str, Any] = {}
    for tree in laid:
        for section in sections:
            said = _at(tree, section)
            renamed = "name" in said and section in names and said["name"] != names[section]
            for leaf in schema.leaves.values():
                owner, _, last = leaf.key.rpartition(".")
                if leaf.of_name and owner == section and (renamed or last in said):
                    stale[leaf.key] = last not in said
            if "name" in said:
                names[section] = said["name"]
    return [key for key, is_stale in stale.items() if is_stale]


def _at(tree: Any, section: str) -> Mapping[str, Any]:
    for step in section.split("."):
        tree = tree.get(step) if isinstance(tree, Mapping) else None
    return tree if isinstance(tree, Mapping) else {}
