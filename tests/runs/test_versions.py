"""Versions are read, not imported."""

from __future__ import annotations

import platform
import subprocess
import sys

from alignkit.runs.versions import environment_text, package_versions, version_changes


def test_versions_are_known_without_importing_anything() -> None:
    code = (
        "import sys; from alignkit.runs.versions import environment_text, package_versions\n"
        "print(package_versions()['torch'], 'torch==' in environment_text())\n"
        "assert not {'torch', 'transformers', 'numpy', 'rich'} & set(sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert answer == [package_versions()["torch"], "True"]


def test_the_environment_names_python_and_packages_in_order() -> None:
    lines = environment_text().splitlines()
    assert lines[0].startswith(f"# python {platform.python_version()}")
    packages = [line.split("==")[0].lower() for line in lines if not line.startswith("#")]
    assert packages == sorted(packages) and "pytest" in packages
    assert str(sys.prefix) not in "\n".join(lines)


def test_changes_are_said_both_ways() -> None:
    then = {"torch": "2.12", "trl": "1.16", "peft": "0.21"}
    now = {"torch": "2.13", "trl": "1.16", "gguf": "0.19"}
    assert version_changes(then, now) == [
        "torch 2.12, now 2.13",
        "peft 0.21, now not installed",
        "gguf not installed, now 0.19",
    ]
    assert version_changes(then, then) == []
