"""Which versions a run was made with, without importing any of them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata

DECISIVE = (
    "alignkit",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "safetensors",
    "gguf",
    "numpy",
)
"""Packages that have a hand in the numbers; the manifest records these, environment.txt records all."""


TOLD = ("alignkit", "torch", "transformers", "trl", "peft", "bitsandbytes")
"""Of these, the ones that a person is told about: on a model card, and when a run of other versions is reused."""


def package_versions() -> dict[str, str]:
    """Version of Python and of each installed package that has a hand in the numbers."""
    versions = {"python": platform.python_version()}
    for name in DECISIVE:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def version_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """``["torch 2.12.0, now 2.13.0", …]``: what differs between a run's versions and these; empty when nothing does."""
    changes = []
    for name in dict.fromkeys((*then, *now)):
        before, after = then.get(name), now.get(name)
        if before != after:
            changes.append(f"{name} {before or 'not installed'}, now {after or 'not installed'}")
    return changes


def environment_text() -> str:
    """The contents of environment.txt: the machine in four lines, then every installed package as name==version."""
    packages = {
        str(found.metadata["Name"]): found.version for found in metadata.distributions() if found.metadata["Name"]
    }
    head = [
        f"# python {platform.python_version()} ({platform.python_implementation()})",
        f"# system {platform.system()} {platform.release()} {platform.machine()}",
        f"# processors {os.cpu_count()}",
        f"# encoding {sys.getfilesystemencoding()}",
    ]
    lines = [f"{name}=={version}" for name, version in sorted(packages.items(), key=lambda item: item[0].lower())]
    return "\n".join([*head, *lines]) + "\n"
