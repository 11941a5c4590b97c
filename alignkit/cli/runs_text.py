"""What `alignkit runs` says about a run, line by line."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.cli.layout import age, clean, columns, number, size
from alignkit.errors import RunError
from alignkit.runs.listing import RunInfo
from alignkit.runs.manifest import Manifest, Parent, read_result

if TYPE_CHECKING:
    from rich.tree import Tree

    from alignkit.runs.lineage import Node

HEADER = ["name", "stage", "state", "parents", "metric", "age", "size"]
RIGHT = [5, 6]
WRAP = [3, 4]


def table_row(info: RunInfo) -> list[str]:
    """One line of the table; columns as in HEADER. Parents that are data are left to `runs show`."""
    models = [parent for parent in info.parents if parent.role.split(".")[0] != "data"]
    return [
        clean(info.name),
        clean(info.run.stage),
        info.state,
        clean(", ".join(short(parent) for parent in models)) or "-",
        headline(info.manifest.metrics) if info.manifest else "-",
        age(time.time() - info.run.created),
        size(info.size),
    ]


def short(parent: Parent) -> str:
    """A parent in a word: its run's name, or the last part of its hub id or path."""
    place = parent.run or parent.hub or parent.path
    return Path(place).name if place else parent.name


def headline(metrics: Mapping[str, Any]) -> str:
    """`exact match 0.02 -> 0.83`: the metric that the run named, else the first that it has of the usual ones."""
    named = metrics.get("headline")
    if isinstance(named, Mapping) and named:
        if "name" in named:
            return _change(str(named["name"]), named.get("before"), named.get("after"))
        return clean(", ".join(f"{name} {number(value)}" for name, value in named.items()))
    before, after = scores(metrics, "before"), scores(metrics, "after")
    for name in ("exact_match", "loss", *after):
        if after.get(name) is not None:
            return _change(name.replace("_", " "), before.get(name), after[name])
    return "-"


def scores(metrics: Mapping[str, Any], when: str) -> dict[str, Any]:
    """The numbers among the scores `before` or `after`; generations and other lists are left out."""
    found = metrics.get(when)
    if not isinstance(found, Mapping):
        return {}
    return {str(name): value for name, value in found.items() if isinstance(value, int | float | None)}


def story(info: RunInfo) -> list[str]:
    """Everything about one run, for `runs show`."""
    manifest = info.manifest
    facts = [["state", _state(info)], ["stage", clean(info.run.stage)]]
    if manifest:
        facts += [
            ["recipe", clean(manifest.name)],
            ["result", clean(info.path / manifest.result)],
            ["seed", str(manifest.seed)],
            ["made", _when(info, manifest)],
        ]
        if manifest.stopped_by:
            facts.append(["stopped by", clean(manifest.stopped_by)])
        if not manifest.reusable:
            facts.append(["reusable", "no: an input has no identity, so asking again runs again"])
    else:
        facts.append(["begun", f"{_moment(info.run.created)}, {age(time.time() - info.run.created)} ago"])
    facts += [["key", info.run.key], ["size", size(info.size)]]
    lines = [clean(info.name), *columns(facts, indent="  ")]
    lines += _section("made from", [_origin(parent) for parent in info.parents])
    if manifest:
        lines += _metrics(manifest.metrics)
        lines += _section("resolved", [[name, number(value)] for name, value in _flat(manifest.resolved)])
        files = [[clean(name), _size_there(info.path / name), digest[:12]] for name, digest in manifest.files.items()]
        lines += _section("files", files)
        lines += _section("versions", [[clean(name), clean(value)] for name, value in manifest.versions.items()])
    if info.run.recipe_file.is_file():
        lines += _section("to get it again", [[f"alignkit train recipe={shlex.quote(str(info.run.recipe_file))}"]])
    return lines


def show_tree(node: Node) -> None:
    """A lineage on stdout: a drawn tree on a terminal, indented lines in a pipe."""
    if not sys.stdout.isatty():
        print("\n".join(_indented(node, 0)))
        return
    from alignkit.console.tables import plain_console

    plain_console().print(_tree(node, None))


def _tree(node: Node, above: Tree | None) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    label = Text(_label(node))
    branch = Tree(label) if above is None else above.add(label)
    for parent in node.parents:
        _tree(parent, branch)
    return branch


def _indented(node: Node, depth: int) -> list[str]:
    below = [line for parent in node.parents for line in _indented(parent, depth + 1)]
    return ["  " * depth + _label(node), *below]


def _label(node: Node) -> str:
    role = f"{node.role}: " if node.role else ""
    note = f" ({node.note})" if node.note else ""
    return clean(f"{role}{node.name}{note}")


def _state(info: RunInfo) -> str:
    if info.state == "running" and info.holder is not None:
        return f"running, {info.holder}"
    if info.state == "failed":
        return clean(f"failed: {info.failure}")
    if info.state == "damaged":
        try:
            read_result(info.path)
        except RunError as error:
            return clean(f"damaged: {error}")
    return info.state


def _when(info: RunInfo, manifest: Manifest) -> str:
    seconds = manifest.seconds
    with suppress(ValueError):
        finished = datetime.fromisoformat(manifest.finished).timestamp()
        if not isinstance(seconds, int | float):
            seconds = finished - datetime.fromisoformat(manifest.created).timestamp()
        return f"{_moment(finished)}, {age(time.time() - finished)} ago, in {age(seconds)}"
    return f"{_moment(info.run.created)}, {age(time.time() - info.run.created)} ago"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _origin(parent: Parent) -> list[str]:
    place = parent.path or (f"{parent.hub}@{parent.commit[:12]}" if parent.hub and parent.commit else parent.hub) or "-"
    return [clean(parent.role), clean(short(parent)), clean(place), parent.digest[:12] or "-"]


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    before, after = _figures(metrics.get("before")), _figures(metrics.get("after"))
    names = [
        name for name in dict.fromkeys((*before, *after)) if {before.get(name, "-"), after.get(name, "-")} != {"-"}
    ]
    if names:
        rows = [[clean(name.replace("_", " ")), before.get(name, "-"), after.get(name, "-")] for name in names]
        return ["", "metrics", *columns([["", "before", "after"], *rows], right=[1, 2], indent="  ")]
    # A stage that has no before and after has its figures under its own name.
    own = [value for name, value in metrics.items() if name not in ("headline", "data", "training")]
    listed = [(name, text) for section in own for name, text in _figures(section).items() if text != "-"]
    return _section("metrics", [[clean(name.replace("_", " ")), text] for name, text in listed])


def _figures(found: object, above: str = "") -> dict[str, str]:
    """Numbers and 95% intervals, by name, as a person reads them; texts and lists are left out."""
    figures: dict[str, str] = {}
    for name, value in (found if isinstance(found, Mapping) else {}).items():
        if isinstance(value, Mapping):
            figures |= _figures(value, f"{above}{name}: ")
        elif isinstance(value, list) and str(name).endswith("_interval") and len(value) == 2:
            figures[f"{above}{name}"] = f"{number(value[0])} to {number(value[1])}"
        elif isinstance(value, int | float | None):
            figures[f"{above}{name}"] = number(value)
    return figures


def _section(title: str, rows: list[list[str]]) -> list[str]:
    return ["", title, *columns(rows, indent="  ")] if rows else []


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for name, value in values.items():
        flat += _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else [(f"{above}{name}", value)]
    return flat


def _size_there(path: Path) -> str:
    return size(path.stat().st_size) if path.is_file() else "gone"


def _change(name: str, before: object, after: object) -> str:
    return clean(f"{name} {number(after)}" if before is None else f"{name} {number(before)} -> {number(after)}")
