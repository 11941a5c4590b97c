"""Recipes are data: what a recipe may not hold, because it could make code run or read what is not its business."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from alignkit.errors import Fault

FORBIDDEN_KEYS = frozenset({"_target_", "_partial_", "_args_", "_convert_", "_recursive_"})
"""Keys that Hydra's `instantiate` turns into calls. It is never called here; the keys are refused all the same."""

READABLE_VARIABLES = ("HOME", "USER", "LOGNAME", "TMPDIR", "SCRATCH", "WORK", "XDG_CACHE_HOME", "XDG_DATA_HOME")
"""Environment variables that `${oc.env:NAME}` may read: places and names, never secrets."""

_READS = re.compile(rf"({'|'.join(READABLE_VARIABLES)})(,[^$]*)?")


def file_faults(values: dict[str, Any], label: str) -> list[Fault]:
    """What a file may not hold at all: its own Hydra settings, `${…}` in its defaults, keys that name code."""
    faults = []
    if "hydra" in values:
        faults.append(Fault(where=f"hydra (from {label})", what="is not a key of a recipe", instead="Leave it out."))
    if "${" in repr(values.get("defaults")):
        faults.append(Fault(where=f"defaults (from {label})", what="may not hold ${…}", instead="Write the names."))
    if any(name.split()[-1:] and name.split()[-1].split("/")[0] == "hydra" for name in _named(values.get("defaults"))):
        faults.append(Fault(where=f"defaults (from {label})", what="may not name anything of hydra"))
    faults += [
        Fault(
            where=f"defaults (from {label})",
            what=f"name {name}, which leaves its folder",
            instead="Name recipes and groups in it, or give another folder with --recipes.",
        )
        for name in (*_named(values.get("defaults")), *_chosen(values.get("defaults")))
        if _leaves(name)
    ]
    return faults


def _named(defaults: Any) -> Iterator[str]:
    """Recipes and groups that a defaults list names."""
    for entry in defaults if isinstance(defaults, list) else ():
        yield from (str(group) for group in entry) if isinstance(entry, dict) else (str(entry),)


def _chosen(defaults: Any) -> Iterator[str]:
    """The choices of the groups that a defaults list names."""
    for entry in defaults if isinstance(defaults, list) else ():
        for choice in entry.values() if isinstance(entry, dict) else ():
            yield from (str(one) for one in choice) if isinstance(choice, list) else (str(choice),)


def _leaves(name: str) -> bool:
    """Whether a name in a defaults list could lead out of the folders of recipes: `../x`, `//tmp/x`, `file://x`.

    One slash at the beginning is Hydra's for the top of these folders; the rest must be a path below it that is there,
    which an absolute path of the system is not (`/tmp/x` is looked for as `tmp/x`).
    """
    steps = name.split()[-1].partition("@")[0].split("/") if name.split() else []
    return ".." in steps or "" in steps[1:] or "~" in steps or "\\" in name or "://" in name


def forbidden_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """Dotted places of forbidden keys, at any depth, in lists too."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            place = f"{prefix}{key}"
            if key in FORBIDDEN_KEYS:
                yield place
            yield from forbidden_keys(value, f"{place}.")
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from forbidden_keys(value, f"{prefix}{index}.")


def interpolation_fault(text: str) -> str | None:
    """Why a string with `${…}` may not be resolved, or None. Reads the grammar's tree, so nesting hides nothing."""
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    try:
        tree = parse(text)
    except GrammarParseError:
        return "holds a ${…} that cannot be read; write ${section.key}, or \\${ for the characters themselves"
    for name, arguments in _resolvers(tree):
        if name != "oc.env":
            return f"uses ${{{name}:…}}, and a recipe may refer only to keys: ${{section.key}}"
        if not _READS.fullmatch(arguments):
            variable = arguments.split(",")[0]
            allowed = ", ".join(READABLE_VARIABLES)
            return f"reads the environment variable {variable}; a recipe may read ${{oc.env:NAME}} of {allowed} only"
    return None


def _resolvers(node: Any) -> Iterator[tuple[str, str]]:
    """Name and arguments of every resolver call in a parse tree."""
    from omegaconf.grammar.gen.OmegaConfGrammarParser import OmegaConfGrammarParser

    if isinstance(node, OmegaConfGrammarParser.InterpolationResolverContext):
        arguments = node.sequence()
        yield node.resolverName().getText(), arguments.getText() if arguments else ""
    for child in getattr(node, "children", None) or ():
        yield from _resolvers(child)
