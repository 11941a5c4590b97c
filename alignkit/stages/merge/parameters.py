"""From a parameter as it is written to the number that holds for one tensor.

A parameter is one number; a list, interpolated over the depth of the model; a list of rules with patterns; or null.
What a place leaves open is taken from the place around it: of a slice's source, the slice, the model, the whole merge,
the method's default.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alignkit.console.bounds import found
from alignkit.errors import Fault
from alignkit.stages.merge.recipe import Rule, Value

if TYPE_CHECKING:
    from alignkit.stages.merge.methods.method import Method, Parameter


def value_at(value: Value | bool, name: str, depth: float) -> float | None:
    """The number that `value` stands for in tensor `name` at `depth` (0 the first layer, 1 the last); None: open."""
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return float(value)
    if value and isinstance(value[0], Rule):
        for rule in value:
            assert isinstance(rule, Rule)
            if rule.match is None or found(re.compile(rule.match), name):
                return value_at(rule.value, name, depth)
        return None
    return interpolate([one for one in value if not isinstance(one, Rule)], depth)


def interpolate(points: Sequence[float], depth: float) -> float:
    """Piecewise linear through `points`, which are spread evenly over depths 0 to 1."""
    if len(points) == 1:
        return float(points[0])
    place = min(max(depth, 0.0), 1.0) * (len(points) - 1)
    low = min(int(place), len(points) - 2)
    share = place - low
    return float((1 - share) * points[low] + share * points[low + 1])


def resolve(
    method: Method, name: str, depth: float, shared: Sequence[Any], each: Sequence[Sequence[Any]]
) -> dict[str, float | list[float]]:
    """Every parameter of `method` for one tensor.

    Args:
        shared: sections that speak for all models, the nearest first (the slice, then the merge).
        each: for every model its own sections, the nearest first (the slice's source, then the model).
    """
    found: dict[str, float | list[float]] = {}
    for key, parameter in method.parameters.items():
        if parameter.per_model:
            places = [_places(own, shared) for own in each]
            found[key] = [_first(key, place, name, depth, parameter.default) for place in places]
        else:
            found[key] = _first(key, shared, name, depth, parameter.default)
    return found


def _places(own: Sequence[Any], shared: Sequence[Any]) -> list[Any]:
    """Source of a slice, slice, model, merge: what is said of a stretch of layers stands before what holds for all."""
    if len(own) == 2 and len(shared) == 2:
        return [own[0], shared[0], own[1], shared[1]]
    return [*own, *shared]


def _first(key: str, places: Iterable[Any], name: str, depth: float, default: float) -> float:
    for place in places:
        found = value_at(getattr(place, key, None), name, depth)
        if found is not None:
            return found
    return default


def faults(places: Mapping[str, Any], method: Method, known: Sequence[str]) -> Iterator[Fault]:
    """What is wrong with the parameters that are written.

    Args:
        places: section of the recipe (`merge`, `merge.models[0]`) to its values.
        known: names of all parameters that any method reads.
    """
    for where, section in places.items():
        for key in known:
            value = getattr(section, key, None)
            if value is None:
                continue
            if key not in method.parameters:
                listed = ", ".join(method.parameters) or "none"
                yield Fault(
                    where=f"{where}.{key}",
                    what=f"{method.name} has no such parameter",
                    instead=f"Leave it out, or choose another merge.method. Parameters of {method.name}: {listed}.",
                )
                continue
            yield from _value_faults(f"{where}.{key}", value, method.parameters[key])


def unmatched(places: Mapping[str, Any], known: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """A sentence for each pattern that is found in no tensor's name."""
    for where, section in places.items():
        for key in known:
            value = getattr(section, key, None)
            for rule in value if isinstance(value, list) else []:
                if (
                    isinstance(rule, Rule)
                    and rule.match
                    and not any(found(re.compile(rule.match), name) for name in names)
                ):
                    yield f"{where}.{key}: the pattern {rule.match!r} is found in the name of no tensor"


def _value_faults(where: str, value: Any, parameter: Parameter) -> Iterator[Fault]:
    if isinstance(value, list) and not value:
        yield Fault(where=where, what="is an empty list", instead="Write a number, or a list of numbers or rules.")
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Rule):
            if one.match is not None and (problem := _pattern_problem(one.match)):
                yield Fault(where=where, what=f"{one.match!r} is no regular expression: {problem}")
            yield from _value_faults(where, one.value, parameter)
        elif not parameter.low <= float(one) <= parameter.high:
            low, high = parameter.low, parameter.high
            allowed = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            yield Fault(where=where, what=f"is {one:g}", instead=f"Write a number {allowed}.")


def _pattern_problem(pattern: str) -> str | None:
    try:
        re.compile(pattern)
    except re.error as error:
        return str(error)
    return None
