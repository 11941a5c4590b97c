"""From a model back to its base: the tree of what it was made from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from alignkit.errors import Fault, RequestError
from alignkit.runs.atomic import read_json
from alignkit.runs.directory import RunDirectory, enclosing_run, load_run, recorded_parents
from alignkit.runs.listing import RunInfo
from alignkit.runs.manifest import Parent


@dataclass(frozen=True)
class Node:
    """One thing in the tree. ``role`` is what it was for in the thing above it (empty at the top)."""

    role: str
    name: str
    note: str = ""
    """What it is: the stage and state of a run, the commit of a hub model, "directory"."""
    parents: list[Node] = field(default_factory=list)


def lineage(path: str | os.PathLike[str]) -> Node:
    """The tree below a run, something in a run (RUN/model), a model directory or a file.

    Raises RequestError when nothing stands at ``path``.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise RequestError(
            Fault(where=str(path), what="nothing stands there", instead="Write a run, RUN/model or a model directory.")
        )
    run = enclosing_run(place)
    if run is not None:
        return _run_node("", run, frozenset())
    return _path_node("", place.resolve(), frozenset())


def parent_run(parent: Parent, root: Path | None = None) -> RunDirectory | None:
    """The run that a parent came from, if it stands: where it was, or by name and key in ``root``.

    The second look finds it after the whole root directory was moved.
    """
    if parent.run is None:
        return None
    places = [Path(parent.run)]
    if root is not None:
        places.append(root / places[0].name)
    for place in places:
        run = load_run(place)
        if run is not None and parent.run_key in (None, run.key):
            return run
    return None


def _run_node(role: str, run: RunDirectory, above: frozenset[Path]) -> Node:
    note = f"{run.stage}, {RunInfo(run).state}"
    if run.path in above:
        return Node(role, run.name, note + ", made from itself")
    below = above | {run.path}
    return Node(role, run.name, note, [_parent_node(parent, run, below) for parent in recorded_parents(run)])


def _parent_node(parent: Parent, child: RunDirectory, above: frozenset[Path]) -> Node:
    run = parent_run(parent, child.path.parent)
    if run is not None:
        return _run_node(parent.role, run, above)
    if parent.run is not None:
        return Node(parent.role, Path(parent.run).name, f"run that is gone: {parent.run}")
    if parent.hub is not None:
        return Node(parent.role, parent.hub, f"hub, commit {parent.commit[:12]}" if parent.commit else "hub")
    if parent.path is not None:
        place = Path(parent.path)
        return _path_node(parent.role, place, above) if place.exists() else Node(parent.role, str(place), "gone")
    return Node(parent.role, parent.name)


def _path_node(role: str, place: Path, above: frozenset[Path]) -> Node:
    """A model that no run of ours made; an adapter names its own base."""
    if place in above:
        return Node(role, str(place), "made from itself")
    if not place.is_dir():
        return Node(role, str(place), "GGUF file" if place.suffix.lower() == ".gguf" else "file")
    adapter = read_json(place / "adapter_config.json")
    base = adapter.get("base_model_name_or_path") if isinstance(adapter, dict) else None
    if not isinstance(base, str) or not base:
        return Node(role, str(place), "directory")
    base_place = Path(base).expanduser()
    if not base_place.is_absolute():
        base_place = place / base_place if (place / base_place).exists() else base_place
    if not base_place.exists():
        return Node(role, str(place), "adapter", [Node("base", base, "hub, or gone")])
    run = enclosing_run(base_place)
    below = above | {place}
    node = _run_node("base", run, below) if run else _path_node("base", base_place.resolve(), below)
    return Node(role, str(place), "adapter", [node])
