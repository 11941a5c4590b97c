"""What stands for the contents of a data set in a run's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alignkit.config.sections import Data
from alignkit.data.reading.places import Place, locate
from alignkit.data.templates.catalogue import template_text
from alignkit.errors import Fault, RequestError


def plain_digest(file: Path) -> str:
    """SHA-256 of a file, read anew each time."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def content_digest(section: Data, digest_file: Callable[[Path], str]) -> str:
    """64 hex digits that change when the rows may: the bytes of files (not their names), the commit of a hub data set,
    the source code of a generator, the text of a chat template that is installed. Raises RequestError when one is not
    there, or a hub commit is not known.

    ``digest_file`` gives the SHA-256 of a file; who calls has one with a memory.
    """
    parts = [identity(locate(source.name), source.revision, digest_file) for source in section.parts()]
    if section.holdout_name is not None:
        other = locate(section.holdout_name, "data.holdout_name")
        own = section.holdout_name.removeprefix("hub:") == section.name.removeprefix("hub:")
        revision = section.revision if own else None
        parts.append(identity(other, revision, digest_file))
    if section.template is not None:
        parts.append({"template": template_text(section.template)})
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def identity(place: Place, revision: str | None, digest_file: Callable[[Path], str]) -> dict[str, Any]:
    """What stands for the contents of one place: digests of files, of a generator's code, or a hub commit."""
    if place.kind == "files":
        return {"files": [[_suffix(file), digest_file(file)] for file in place.files]}
    if place.kind == "generated":
        folder = Path(__file__).parent / place.name.removeprefix("generated:")
        return {"generator": [[file.name, digest_file(file)] for file in sorted(folder.glob("*.py"))]}
    return {"hub": place.name, "commit": hub_commit(place.name, revision)}


def _suffix(file: Path) -> str:
    """What a file's name says of how it is read: `.jsonl`, `.csv.gz`."""
    packed = file.suffix.lower() in (".gz", ".zst")
    return (Path(file.stem).suffix if packed else "").lower() + file.suffix.lower()


def hub_commit(name: str, revision: str | None) -> str:
    """The commit of a hub data set. Without a network: the one that the local cache holds for the revision."""
    if revision is not None and len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision):
        return revision
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        sha = HfApi().dataset_info(name, revision=revision).sha
        if sha:
            return sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        pass
    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / (revision or "main")
    if folder.is_file():
        return folder.read_text(encoding="utf-8").strip()
    raise RequestError(
        Fault(
            where="data.name",
            what=f"the hub data set {name} cannot be reached, and is not in the local cache",
            instead="Check the name and the network, or give a local file.",
        )
    )
