"""The key of a run: a digest of what decides the weights.

Two requests with the same key are the same run. So the key must not depend on how a value was spelled
(``1e-4`` or ``0.0001``, ``2`` or ``2.0``), on the order of keys, or on the Python that computed it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from alignkit.errors import Fault, RequestError

FORMAT = 1
"""Raised when this file's idea of a canonical text changes, which makes every older run another one."""


def run_key(stage: str, semantics: int, values: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """64 hex digits that name a run.

    ``values`` are the recipe's values that decide the weights (``auto`` stays ``auto``); ``inputs`` maps the
    role of each input (``"model.weights"``, ``"data"``) to its digest or commit; ``semantics`` is the number
    that the stage raises when its maths changes. Raises RequestError on NaN or an infinity, naming the key.
    """
    request = {"format": FORMAT, "stage": stage, "semantics": semantics, "values": values, "inputs": inputs}
    return hashlib.sha256(canonical(request).encode("ascii")).hexdigest()


def canonical(value: Any) -> str:
    """One text for all spellings of one value: sorted keys, no blanks, ASCII, whole floats as integers."""
    return json.dumps(_normal(value, ""), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _normal(value: Any, where: str) -> Any:
    if isinstance(value, Enum):
        return _normal(value.value, where)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            name = where.removeprefix("values.") or "recipe"
            raise RequestError(Fault(where=name, what=f"{value} is no finite number", instead="Write a finite one."))
        # 1.0 is 1 however it was typed, and -0.0 is 0; repr of what is left is the shortest text that reads back.
        return int(value) if value.is_integer() else value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where or 'key'}: only names can be keys, found {name!r}")
        return {name: _normal(item, f"{where}.{name}".lstrip(".")) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_normal(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"{where or 'key'}: {type(value).__name__} has no canonical text")
