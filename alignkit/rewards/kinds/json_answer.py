"""Whether the whole answer is JSON, and whether it fits a schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.errors import Fault, RequestError
from alignkit.rewards.judged import EachReward, Judged, Reward
from alignkit.rewards.kinds.kind import Kind, Making, simple
from alignkit.rewards.recipe import RewardSource
from alignkit.rewards.schema import Validator


def parsed(answer: str) -> Any | None:
    """The object or list that the answer is, with nothing before or after it but white space; else None.

    Bare numbers and words are JSON too, but nobody asks a model for JSON to get these. NaN is no JSON.
    """
    if not answer.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(answer, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> Any:
    raise ValueError(name)


def is_json(row: Judged) -> float:
    """1 or 0."""
    return float(parsed(row.answer) is not None)


def _fitting(source: RewardSource, making: Making) -> Reward:
    validator = Validator(_schema(source, making.where))

    def fits(row: Judged) -> float:
        value = parsed(row.answer)
        return float(value is not None and validator.fits(value))

    return EachReward("json-schema", fits)


def _schema(source: RewardSource, where: str) -> dict[str, Any]:
    """The schema itself. Raises RequestError for a file that holds none."""
    if isinstance(source.schema, dict):
        return source.schema
    file = Path(str(source.schema)).expanduser()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = f"{file} could not be read as JSON: {error}"
        raise RequestError(Fault(where=f"{where}.schema", what=what, instead="Give a JSON schema.")) from None
    if not isinstance(found, dict):
        raise RequestError(
            Fault(where=f"{where}.schema", what=f"{file} holds no object", instead="Give a JSON schema.")
        )
    return found


def _check(source: RewardSource, where: str) -> Iterator[Fault]:
    try:
        Validator(_schema(source, where))
    except RequestError as error:
        yield from error.faults
    except ValueError as error:
        yield Fault(where=f"{where}.schema", what=str(error), instead="Correct the schema.")


JSON = simple("json", "1 where the whole answer is a JSON object or list, else 0", is_json)
SCHEMA = Kind(
    name="json-schema",
    about="1 where the whole answer is JSON that fits the schema, else 0",
    make=_fitting,
    reads=("schema",),
    needs=("schema",),
    example="Write {name: json-schema, schema: FILE}.",
    check=_check,
)
