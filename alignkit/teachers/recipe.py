"""What recipes say about teachers: sections that several stages share, and the files that stand for a cache."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from annotated_types import Ge, Gt

from alignkit.config.sections import OPERATIONAL, Model
from alignkit.errors import Fault

CACHE = "cache"
"""Directory of a teacher-cache run that holds the cache."""
HEAD = "cache.json"
"""File of a cache that names its shards by their digests: the last one that is written."""
KEY_VARIABLE = "ALIGNKIT_SERVER_KEY"
"""Environment variable with the key for a server. A recipe cannot name another: it could send any secret anywhere."""


@dataclass(kw_only=True)
class WeightedTeacher(Model):
    """One of several teachers, whose probabilities are averaged."""

    weight: Annotated[float, Gt(0)] = 1.0
    """Share in the mean, relative to the other teachers' weights."""


@dataclass(kw_only=True)
class Server:
    """A server that speaks the OpenAI API (vLLM, SGLang, llama.cpp, a vendor). Its key, where it wants one, is read
    from the environment variable ALIGNKIT_SERVER_KEY."""

    url: str | None = None
    """Up to the version: `http://localhost:8000/v1`; null: no server, the teacher's weights are read here."""
    model: str | None = None
    """What the server calls the model; null: as `teacher` is named."""
    top_logprobs: Annotated[int, Ge(1)] = 20
    """Log-probabilities of a position to ask for. Servers have a limit of their own (vLLM: --max-logprobs, 20)."""
    parallel: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Requests at once."""
    timeout: Annotated[float, Gt(0)] = field(default=120.0, metadata=OPERATIONAL)
    """Seconds that an answer may take."""
    retries: Annotated[int, Ge(0)] = field(default=4, metadata=OPERATIONAL)
    """How often a request is made again after an error that may pass (busy, broken connection), at growing pauses."""


def server_faults(server: Server, where: str) -> Iterator[Fault]:
    """What is wrong with a server section."""
    if server.url is None:
        if server.model is not None:
            yield Fault(
                where=f"{where}.model",
                what="is set, and there is no server",
                instead=f"Set {where}.url, or leave it out.",
            )
        return
    parts = urlsplit(server.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        yield Fault(
            where=f"{where}.url",
            what=f"{server.url!r} is no address of a server",
            instead="Write one like http://localhost:8000/v1.",
        )
    elif parts.username or parts.password:
        yield Fault(
            where=f"{where}.url",
            what="holds a password, which would be kept with the run",
            instead=f"Put the key into the environment variable {KEY_VARIABLE}.",
        )
    elif parts.query or parts.fragment:
        yield Fault(
            where=f"{where}.url",
            what="holds something after a ? or #, which would be kept with the run and is not sent",
            instead=f"Write the address alone, and put a key into the environment variable {KEY_VARIABLE}.",
        )


def cache_directory(path: str) -> Path:
    """Where the cache is that a path names: a teacher-cache run, or its directory `cache`."""
    place = Path(path).expanduser()
    return place / CACHE if (place / CACHE / HEAD).is_file() else place


def cache_files(path: str) -> list[Path]:
    """The file whose contents stand for a cache in a run's key: it holds the digests of all shards."""
    return [cache_directory(path) / HEAD]


def cache_layout(path: str) -> dict[str, Any]:
    """What a cache says of its entries (kind, temperature, …); nothing where its head cannot be read, which is told
    when it is opened."""
    try:
        found = json.loads((cache_directory(path) / HEAD).read_bytes())["layout"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def cache_faults(path: str, where: str) -> Iterator[Fault]:
    """What is wrong with the path of a cache, as far as its name tells."""
    if not (cache_directory(path) / HEAD).is_file():
        yield Fault(
            where=where,
            what=f"there is no finished teacher cache in {path}",
            instead="Write one (alignkit train recipe=teacher-cache teacher=… data=…); it prints its path.",
        )
