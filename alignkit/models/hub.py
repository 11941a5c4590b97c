"""Hub names that turn out to be adapters: fetched, and then treated as the adapter directories that they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alignkit.models.locating import Source, adapter_source

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def cached_commit(source: Source) -> str | None:
    """The commit of a hub model that was loaded, told by its place in the cache; None for anything else."""
    if source.kind != "hub" or source.hub_name is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.hub_name, "config.json", revision=source.revision or "main")
    return Path(found).parent.name if isinstance(found, str) else None  # …/snapshots/COMMIT/config.json


def fetched(source: Source) -> Source:
    """`source` itself, or for a hub name with an adapter the directory it was fetched to, with its base.

    Whether it is one is asked of the hub, or offline of the cache; what is not there is left for loading to report.
    """
    if source.kind != "hub" or source.hub_name is None:
        return source
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, revision = source.hub_name, source.revision
    try:
        hf_hub_download(name, "adapter_config.json", revision=revision)
        place = snapshot_download(name, revision=revision, allow_patterns=list(_ADAPTER_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return source
    found = adapter_source(Path(place), None, "model.name")
    return replace(found, said=f"{source.said}: an adapter on {found.parent.place if found.parent else '?'}")
