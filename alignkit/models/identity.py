"""What a model is, apart from where it lies: digests of the files that decide its outputs, a hub name by its commit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from alignkit.errors import Fault, RequestError
from alignkit.models.jsonfile import read_object
from alignkit.models.locating import Source

DECIDING = (
    "*.safetensors",
    "*.safetensors.index.json",
    "pytorch_model*.bin",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "*.model",
    "*.jinja",
    "chat_template.json",
    "*.py",
)
"""Files of a model directory that decide what it computes. README, logs and where an adapter's base lies do not."""

_WHERE_ONLY = ("base_model_name_or_path", "revision")


def identity(source: Source, digest: Callable[[Path], str]) -> dict[str, str]:
    """Name of each part to its digest (`digest` gives a file's), an adapter's base under `base/`.

    A hub name is its commit; asking for it uses the network unless the model is in the cache and we are offline.
    """
    parts: dict[str, str] = {}
    if source.kind == "hub":
        assert source.hub_name is not None
        return {"hub": source.hub_name, "commit": hub_commit(source.hub_name, source.revision)}
    assert source.path is not None
    if source.kind == "gguf":
        return {"gguf": digest(source.path)}
    for pattern in DECIDING:
        for file in sorted(source.path.glob(pattern)):
            if file.is_file():
                parts[file.name] = digest(file)
    if source.adapter:
        config = read_object(source.path / "adapter_config.json", "model.name")
        text = json.dumps({key: config[key] for key in sorted(config) if key not in _WHERE_ONLY})
        parts["adapter_config.json"] = hashlib.sha256(text.encode()).hexdigest()
        assert source.parent is not None
        parts |= {f"base/{name}": value for name, value in identity(source.parent, digest).items()}
    return parts


def hub_commit(name: str, revision: str | None) -> str:
    """The commit that `revision` (default main) of a hub model stands for: from the hub, or offline from the cache."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError

    wanted = revision or "main"
    reason = "the hub cannot be reached (offline)"
    if not constants.HF_HUB_OFFLINE:
        try:
            found = HfApi().model_info(name, revision=wanted, timeout=20).sha
            if found:
                return found
        except HfHubHTTPError as error:
            raise RequestError(
                Fault(
                    where="model.name",
                    what=f"the hub does not give {name} at {wanted}: {str(error).splitlines()[0]}",
                    instead="Check the name, and that you may read it (hub login).",
                )
            ) from error
        except Exception as error:  # whatever the transport raises: no connection, no name server, a proxy
            reason = f"the hub cannot be reached ({type(error).__name__})"
    for file in ("config.json", "adapter_config.json"):
        cached = try_to_load_from_cache(name, file, revision=wanted)
        if isinstance(cached, str):
            return Path(cached).parent.name  # …/snapshots/COMMIT/config.json
    raise RequestError(
        Fault(
            where="model.name",
            what=f"{name} is not in the hub's cache on this machine, and {reason}",
            instead="Download it first (hf download), or give a path: ./DIRECTORY.",
        )
    )
