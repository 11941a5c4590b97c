"""A composed recipe as YAML, each value with the file or the word that set it beside it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from alignkit.config.compose import Composed


def show(composed: Composed) -> str:
    """Valid YAML: the resolved recipe; comments at the right name each value's origin."""
    lines = list(_lines(composed.values, composed.origins, "", 0))
    width = min(56, max((len(text) for text, origin in lines if origin), default=0))
    return "\n".join(f"{text:<{width}}  # {origin}" if origin else text for text, origin in lines) + "\n"


def _lines(tree: dict[str, Any], origins: dict[str, str], prefix: str, depth: int) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in tree.items():
        place = f"{prefix}{key}"
        indent = "  " * depth
        if isinstance(value, dict) and value:
            lines.append((f"{indent}{scalar(key)}:", ""))
            lines += _lines(value, origins, f"{place}.", depth + 1)
        else:
            lines.append((f"{indent}{scalar(key)}: {scalar(value)}", origins.get(place, "")))
    return lines


def scalar(value: Any) -> str:
    """One value on one line of YAML, read back as the same value by any reader of recipes."""
    import yaml

    text = str(yaml.dump(value, Dumper=_dumper(), default_flow_style=True, width=10**9, allow_unicode=True))
    return text.removesuffix("\n...\n").strip()


@lru_cache(maxsize=1)
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """PyYAML's, with quotes where OmegaConf would read a number or a reference, and on texts of several lines."""

    def text(dumper: Any, value: str) -> Any:
        quoted = "\n" in value or _is_number(value)
        literal = value.replace("${", "\\${")
        return dumper.represent_scalar("tag:yaml.org,2002:str", literal, style='"' if quoted else None)

    Dumper.add_representer(str, text)
    return Dumper


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
