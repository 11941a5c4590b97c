"""Every merge method by name. A new one is a file in this folder that defines a :class:`Method`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from alignkit.stages.merge.methods.method import Method, Parameter

__all__ = ["METHODS", "Method", "Parameter"]


def _collect() -> dict[str, Method]:
    found: dict[str, Method] = {}
    for module in iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Method):
                other = found.setdefault(value.name, value)
                assert other is value, f"two merge methods are called {value.name}"
    return dict(sorted(found.items()))


METHODS: dict[str, Method] = _collect()
