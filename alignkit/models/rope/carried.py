"""Stretched positions that an adapter carries: its base says nothing of them, and whoever loads it sets them again."""

from __future__ import annotations

from pathlib import Path

from alignkit.errors import Fault, RequestError
from alignkit.models.locating import ORIGIN_FILE, Source, read_origin
from alignkit.models.rope.plan import RopePlan


def noted_plan(source: Source) -> RopePlan | None:
    """The plan noted beside an adapter, or beside the nearest adapter below it; None where none is.

    Raises RequestError for a note that is damaged.
    """
    if not source.adapter:
        return None
    own = own_plan(source.path) if source.path is not None else None
    return own if own is not None or source.parent is None else noted_plan(source.parent)


def own_plan(adapter: Path, where: str = "model.name") -> RopePlan | None:
    """The plan noted beside this adapter; None where none is. Raises RequestError for a note that is damaged."""
    noted = (read_origin(adapter, where) or {}).get("rope")
    if noted is None:
        return None
    try:
        return RopePlan.from_dict(noted)
    except TypeError as error:
        raise RequestError(
            Fault(
                where=where,
                what=f"{ORIGIN_FILE} of the adapter {adapter} notes rotary positions that cannot be read ({error})",
                instead="Bring back the file, or train the adapter again.",
            )
        ) from error
