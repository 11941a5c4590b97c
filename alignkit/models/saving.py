"""A model goes in, a plain Hugging Face directory comes out: weights, tokenizer, template, generation settings."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from alignkit.models.cards import Card, escaped, fenced, license_of, write_card
from alignkit.models.placing import replace_directory
from alignkit.models.quiet import quiet_library
from alignkit.models.rope.applying import write_older_names

__all__ = ["Card", "escaped", "fenced", "license_of", "save_model", "write_card"]


def save_model(model: Any, tokenizer: Any, directory: Path) -> Path:
    """Write `model` and `tokenizer` beside `directory` and rename, so it is whole or not there. Returns it."""
    directory = Path(directory).absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    noted = model.config._name_or_path
    try:
        model.config._name_or_path = ""  # a path of this machine says nothing elsewhere
        with quiet_library():
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
        write_older_names(temporary)
        replace_directory(temporary, directory)
    finally:
        model.config._name_or_path = noted
        shutil.rmtree(temporary, ignore_errors=True)
    return directory
