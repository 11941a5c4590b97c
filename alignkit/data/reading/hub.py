"""Rows of a hub data set, through the datasets library: downloaded once, then mapped from disk."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alignkit.data.reading.columnar import slices
from alignkit.errors import Fault, RequestError

ROWS_AT_ONCE = 1_000


def hub_batches(name: str, split: str, config: str | None, revision: str | None, block: int) -> Iterator[Any]:
    """The rows as Arrow tables of about ``block`` bytes, in order. Images and the like stay bytes.

    Raises RequestError: not found, gated, offline, an unknown split or configuration.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows: Any = load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(
            Fault(
                where="data.name",
                what=f"the hub data set {name} (split {split}) cannot be read: {reason[:300]}",
                instead="Check the name, data.split and data.config; without a network, give a local file.",
            )
        ) from error
    for table in rows.with_format("arrow").iter(ROWS_AT_ONCE):
        yield from slices(table, block)
