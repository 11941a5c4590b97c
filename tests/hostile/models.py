"""Ways to change a sound model or adapter into a hostile one: each is a word in the table of test_models.py."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.attack import Ground

Change = Callable[[Ground, Path], None]


def model(*changes: Change, words: tuple[str, ...] = (), run: str = "lora"):  # type: ignore[no-untyped-def]
    """A copy of a sound model, changed, that somebody fine-tunes."""

    def lay(ground: Ground) -> list[str]:
        place = ground.here / "m"
        shutil.copytree(ground.model, place)
        for change in changes:
            change(ground, place)
        return ["train", f"recipe={run}", *ground.sound()[1:], "model=./m", *words]

    return lay


def said(file: str, **values: Any) -> Change:
    """Values in a JSON file of the model's. `@` names are filled in."""

    def change(ground: Ground, place: Path) -> None:
        path = place / file
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        text = json.dumps({**found, **values})
        text = text.replace("@SHELL", ground.shell()).replace("@SECRET", str(ground.secret))
        path.write_text(text.replace("@OUTSIDE", str(ground.outside)), encoding="utf-8")

    return change


def holds(file: str, content: Callable[[Ground], bytes | str]) -> Change:
    """A file of the model's with another content."""

    def change(ground: Ground, place: Path) -> None:
        found = content(ground)
        (place / file).unlink(missing_ok=True)
        (place / file).write_bytes(found.encode() if isinstance(found, str) else found)

    return change


def gone(*files: str) -> Change:
    def change(ground: Ground, place: Path) -> None:
        for file in files:
            (place / file).unlink()

    return change


def code(name: str) -> Change:
    """Python that lies beside the weights."""
    return holds(name, lambda ground: ground.python())


def link(file: str, *, safetensors: bool = False) -> Change:
    """A file of the model's that is a link to one outside."""

    def change(ground: Ground, place: Path) -> None:
        target = ground.outside / Path(file).name
        if (place / file).exists():
            shutil.move(place / file, target)
        else:
            target.write_text("{}", encoding="utf-8")
        (place / file).symlink_to(target)

    return change


def index(**files: str) -> Change:
    """An index in place of the one file, whose first tensor lies in another."""

    def change(ground: Ground, place: Path) -> None:
        from safetensors import safe_open

        with safe_open(place / "model.safetensors", "pt") as opened:
            names = list(opened.keys())
        shutil.move(place / "model.safetensors", place / "a.safetensors")
        shutil.copy(place / "a.safetensors", ground.outside / "w.safetensors")
        first = next(iter(files.values())).replace("@OUTSIDE", str(ground.outside))
        table = dict.fromkeys(names, "a.safetensors") | {names[0]: first}
        text = json.dumps({"metadata": {}, "weight_map": table})
        (place / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    return change


def header(entries: dict[str, Any] | bytes, *, length: int | None = None, data: bytes = b"") -> Change:
    """A weights file with this header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    size = len(text) if length is None else length
    return holds("model.safetensors", lambda ground: struct.pack("<Q", size) + text + data)


def fifo(file: str) -> Change:
    def change(ground: Ground, place: Path) -> None:
        (place / file).unlink(missing_ok=True)
        os.mkfifo(place / file)

    return change


def adapter(*changes: Change):  # type: ignore[no-untyped-def]
    """A copy of a sound adapter on a sound base, changed, that somebody goes on from."""

    def lay(ground: Ground) -> list[str]:
        place = ground.here / "a"
        place.mkdir()
        sound_adapter(ground.model, place)
        for change in changes:
            change(ground, place)
        return ["train", "recipe=lora", *ground.sound()[1:], "model=./a"]

    return lay


def sound_adapter(base: Path, place: Path) -> None:
    import torch
    from safetensors.torch import save_file

    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    text = json.dumps({**config, "base_model_name_or_path": str(base)})
    (place / "adapter_config.json").write_text(text, encoding="utf-8")
    tensors = {}
    for layer in range(2):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors |= {f"{name}.lora_A.weight": torch.zeros(2, 32), f"{name}.lora_B.weight": torch.zeros(32, 2)}
    save_file(tensors, place / "adapter_model.safetensors")


def template(text: str) -> Change:
    """A chat template that comes with the tokenizer."""

    def change(ground: Ground, place: Path) -> None:
        (place / "chat_template.jinja").write_text(text.replace("@SHELL", ground.shell()), encoding="utf-8")

    return change
