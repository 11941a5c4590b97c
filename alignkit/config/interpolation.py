"""`${section.key}` in a value: looked up leaf by leaf, so that one that fails does not hide the others."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from alignkit.config.safety import interpolation_fault

Path = tuple[str | int, ...]


def resolve(tree: dict[str, Any], defaults: dict[str, Any]) -> tuple[dict[str, Any], dict[Path, str]]:
    """Return the tree with every `${…}` replaced, and what is wrong with those that could not be (left out of it).

    `defaults` holds the built-in values that a `${…}` may refer to as well.
    """
    places = [(path, text) for path, text in _texts(tree) if "${" in text]
    if not places:
        return tree, {}
    from omegaconf import OmegaConf

    tree = deepcopy(tree)
    problems: dict[Path, str] = {}
    for path, text in places:
        problem = interpolation_fault(text)
        if problem:
            problems[path] = problem
            _set(tree, path, None)
    config = OmegaConf.create(merged(defaults, tree))
    for path, _ in places:
        if path in problems:
            continue
        try:
            _set(tree, path, _lookup(config, path))
        except Exception as error:  # OmegaConf raises a dozen kinds here, RecursionError among them
            problems[path] = _sentence(error, path)
    for path in sorted(problems, key=len, reverse=True):
        _drop(tree, path)
    return tree, problems


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `under`: mappings join, everything else replaces."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _lookup(config: Any, path: Path) -> Any:
    from omegaconf import OmegaConf

    for step in path[:-1]:
        config = config[step]
    value = config[path[-1]]
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _sentence(error: Exception, path: Path) -> str:
    if isinstance(error, RecursionError) or "recurs" in str(error).lower():
        return "refers to itself through its ${…}"
    text = str(error).splitlines()[0]
    if "Environment variable" in text:
        return f"reads {text.split(chr(39))[1]} from the environment, where it is not set"
    if "Interpolation key" in text:
        return f"refers to {text.split(chr(39))[1]}, and there is no such value"
    return "holds a ${…} that leads to no value"


def _texts(tree: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    items: Any = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if isinstance(value, str):
            yield (*path, key), value
        else:
            yield from _texts(value, (*path, key))


def _set(tree: Any, path: Path, value: Any) -> None:
    for step in path[:-1]:
        tree = tree[step]
    tree[path[-1]] = value


def _drop(tree: Any, path: Path) -> None:
    """Remove the mapping's key; for an element of a list, the key that holds the list."""
    depth = next((index for index, step in enumerate(path) if isinstance(step, int)), len(path))
    for step in path[: depth - 1]:
        tree = tree.get(step, {})
    tree.pop(path[depth - 1], None)
