"""The section `trl:` against TRL's config classes, by reading their source: nothing of TRL is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from alignkit.config.trl_names import owned
from alignkit.config.values import MismatchError, read
from alignkit.errors import Fault

PLAIN: dict[str, Any] = {kind.__name__: kind for kind in (bool, int, float, str, dict, list)} | {"Any": Any}


@dataclass(frozen=True)
class _Module:
    """A source file and the dotted name it is imported by."""

    name: str
    file: Path


def check(
    options: Mapping[str, Any], config_class: str | None, own_names: Mapping[str, str] | None = None
) -> list[Fault]:
    """Faults of `trl:` for a stage that uses `config_class` ("SFTConfig"; None: the stage takes no such options).

    `own_names` are the stage's own keys for further options of that class (`{"loss_type": "sft.loss"}`).
    """
    if not options:
        return []
    if config_class is None:
        return [Fault(where="trl", what="this stage does not use TRL", instead="Leave the section out.")]
    known = fields(config_class)
    return [fault for key, value in options.items() for fault in _check_one(key, value, known, config_class, own_names)]


def typed(options: Mapping[str, Any], config_class: str | None) -> dict[str, Any]:
    """Checked options as their class has them: where it wants a float, 0 is 0.0. What has no plain type stays."""
    known = fields(config_class) if options and config_class else {}
    found = dict(options)
    for key, value in options.items():
        annotation = _annotation(known[key]) if key in known else None
        if annotation is not None:
            found[key] = read(annotation, value)
    return found


def fields(config_class: str) -> dict[str, str]:
    """Name to annotation (as source text) of every option of one of TRL's config classes, inherited ones included.

    Empty when TRL is not installed or has no such class.
    """
    stem = _stem(config_class)
    homes = ("trl.trainer", f"trl.experimental.{stem.removesuffix('_config')}")
    module = next((found for home in homes if (found := _source(home, stem))), None)
    return dict(_fields(module, config_class)) if module else {}


def _check_one(
    key: str, value: Any, known: Mapping[str, str], config_class: str, own_names: Mapping[str, str] | None
) -> Iterator[Fault]:
    where = f"trl.{key}"
    ours, reason = ((own_names or {}).get(key), "") if key in (own_names or {}) else owned(key) or (None, "")
    if ours or reason:
        instead = f"Write {ours}=…" if ours else "Leave it out."
        yield Fault(where=where, what=f"alignkit sets this itself{f': {reason}' if reason else ''}", instead=instead)
    elif known and key not in known:
        free = [name for name in known if owned(name) is None and name not in (own_names or {})]
        near = get_close_matches(key, known, n=1)
        there = owned(near[0]) if near else None
        if near and there and there[0]:
            instead = f"Did you mean {near[0]}? That is {there[0]} here."
        elif near and near[0] in free:
            instead = f"Did you mean trl.{near[0]}?"
        elif near and there:
            instead = f"Did you mean {near[0]}? alignkit sets that itself: {there[1]}."
        else:
            instead = ""
        yield Fault(where=where, what=f"TRL's {config_class} has no such option", instead=instead)
    elif known:
        annotation = _annotation(known[key])
        if annotation is not None:
            try:
                read(annotation, value)
            except MismatchError as problem:
                yield Fault(where=where, what=str(problem))


def _annotation(source: str) -> Any:
    """A plain annotation as types: bool, int, float, str, None, Literal and unions of them. None: not plain."""
    try:
        return _plain(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, KeyError):
        return None


def _plain(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _plain(node.left) | _plain(node.right)
    if isinstance(node, ast.Constant) and node.value is None:
        return type(None)
    if isinstance(node, ast.Name) and node.id in PLAIN:
        return PLAIN[node.id]
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        if node.value.id == "Optional":
            return _plain(node.slice) | type(None)
        if node.value.id == "Literal":
            return Literal[ast.literal_eval(node.slice)]
        if node.value.id == "list":
            return list[_plain(node.slice)]  # type: ignore[misc]
        if node.value.id == "dict":
            return dict[str, Any]
    raise ValueError(ast.dump(node))


def _fields(module: _Module, name: str) -> Iterator[tuple[str, str]]:
    """Annotated names in a class's body after those of its bases, which are followed through the imports."""
    tree = ast.parse(module.file.read_text(encoding="utf-8"))
    body = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if body is None:
        return
    for base in reversed(body.bases):
        if isinstance(base, ast.Name):
            if any(isinstance(node, ast.ClassDef) and node.name == base.id for node in tree.body):
                yield from _fields(module, base.id)
            elif (found := _imported(tree, base.id, module)) is not None:
                yield from _fields(found, base.id)
    for statement in body.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id, ast.unparse(statement.annotation)


def _imported(tree: ast.Module, name: str, module: _Module) -> _Module | None:
    """The file that a base class comes from."""
    for node in tree.body:
        if not isinstance(node, ast.ImportFrom) or all(alias.name != name for alias in node.names):
            continue
        if node.level:
            package = module.name.rsplit(".", node.level)[0]
            parent, _, stem = f"{package}.{node.module}".rpartition(".")
            return _source(parent, stem)
        if node.module == "transformers" and name == "TrainingArguments":
            return _source("transformers", "training_args")
        parent, _, stem = (node.module or "").rpartition(".")
        return _source(parent, stem) if parent else None
    return None


def _source(package: str, stem: str) -> _Module | None:
    """`trl.trainer` and `sft_config` to the file; only the top-level package is looked up, so nothing is imported."""
    top, *rest = package.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent.joinpath(*rest, f"{stem}.py")
    return _Module(f"{package}.{stem}", file) if file.is_file() else None


def _stem(config_class: str) -> str:
    """SFTConfig to sft_config."""
    return f"{config_class.removesuffix('Config').lower()}_config"
