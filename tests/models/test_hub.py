"""Hub names, with a cache on disk standing in for the hub (offline, in a process of its own: the cache is set once)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from alignkit.config.sections import Adapter
from alignkit.models.adapters import attach, save_adapter
from tests.models.helpers import load_tiny, logits_of, train_a_little

COMMIT = "0123456789abcdef0123456789abcdef01234567"

SCRIPT = """
import json, sys, torch
from pathlib import Path
from alignkit.config.sections import Adapter, Model
from alignkit.models.adapters import attach, save_adapter
from alignkit.models.loading import load
from tests.models.helpers import logits_of
out = Path(sys.argv[1])
plain = load(Model(name="owner/base", dtype="fp32"), device="cpu")
tuned = load(Model(name="owner/adapter", dtype="fp32"), device="cpu")
peft = attach(plain, Adapter(kind="lora", rank=2), seed=0)
save_adapter(peft, out / "saved", plain.source)
torch.save([logits_of(plain), logits_of(tuned)], out / "logits.pt")
print(tuned.source.said)
"""


def put(cache: Path, name: str, directory: Path) -> None:
    """A directory as the hub's client would have cached it."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(directory, repository / "snapshots" / COMMIT)


def test_models_and_adapters_by_hub_name(tiny_llama: Path, tmp_path: Path) -> None:
    import torch

    base = load_tiny(tiny_llama)
    wanted = [logits_of(base)]
    peft = attach(base, Adapter(kind="lora", rank=2), seed=0)
    train_a_little(peft, base.tokenizer)
    wanted.append(logits_of(peft, base.tokenizer))
    adapter = save_adapter(peft, tmp_path / "adapter", base.source)
    (adapter / "alignkit.json").unlink()
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "owner/base"}))
    put(tmp_path / "hub" / "hub", "owner/base", tiny_llama)
    put(tmp_path / "hub" / "hub", "owner/adapter", adapter)

    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "owner/adapter from the hub: an adapter on hub:owner/base" in done.stdout
    for found, expected in zip(torch.load(tmp_path / "logits.pt"), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    saved = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (saved["base_model_name_or_path"], saved["revision"]) == ("owner/base", COMMIT)
