"""Which file or word set each value: layers are laid down in the order in which they win."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

BUILT_IN = "built-in default"


class Origins:
    """Place of each value in the tree (as a tuple of keys) and where it came from."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, ...], str] = {}

    def lay(self, values: Any, origin: str, at: Sequence[str] = ()) -> None:
        """Note that `values` were laid on the tree at a place; mappings join, everything else replaces."""
        for place, value in leaves(values, tuple(at)):
            if not isinstance(value, dict):
                self.forget(place)
                self._of[place] = origin
            for depth in range(1, len(place)):
                self._of.pop(place[:depth], None)

    def forget(self, place: Sequence[str]) -> None:
        """A place and what is below it are gone."""
        place = tuple(place)
        for known in [known for known in self._of if known[: len(place)] == place]:
            del self._of[known]

    def of(self, key: str) -> str | None:
        """Origin of a dotted key: its own, else that of the value it is part of, else of what is below it."""
        by_key = {".".join(place): origin for place, origin in self._of.items()}
        parts = in_list(key).split(".")
        for length in range(len(parts), 0, -1):
            origin = by_key.get(".".join(parts[:length]))
            if origin is not None:
                return origin
        below = {origin for known, origin in by_key.items() if known.startswith(f"{key}.")}
        return ", ".join(sorted(below)) or None


def in_list(key: str) -> str:
    """The key that holds an element (`merge.models[0].weight` is in `merge.models`); a key itself otherwise."""
    return key.partition("[")[0]


def leaves(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Places and values of a tree of mappings; an empty mapping counts as a value."""
    if isinstance(tree, dict) and (tree or not prefix):
        for key, value in tree.items():
            yield from leaves(value, (*prefix, str(key)))
    else:
        yield prefix, tree


def with_origin(key: str, origin: str | None) -> str:
    """`optimizer.learning_rate (from recipes/lora.yaml)`."""
    if origin is None or origin == BUILT_IN:
        return key
    return f"{key} (from the {origin})" if origin == "command line" else f"{key} (from {origin})"
