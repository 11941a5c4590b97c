"""JSON schemas (draft 2020-12): whether a value fits one. The keywords below; others are refused, never passed over.

`format` only describes, as the draft has it by default; `$ref` reaches within the schema (`#/$defs/name`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, TypeAlias

from alignkit.console.bounds import found

Schema: TypeAlias = "dict[str, Any] | bool"

TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    # 1.0 is an integer, section 4.2.3 of the draft.
    "integer": lambda value: TYPES["number"](value) and float(value).is_integer(),
}

DESCRIBES = frozenset(
    [
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "definitions",
        "title",
        "description",
        "default",
        "examples",
        "format",
        "deprecated",
        "readOnly",
        "writeOnly",
        "then",
        "else",
    ]
)
"""Keywords that decide nothing by themselves."""


class Validator:
    """A schema, ready to be asked."""

    def __init__(self, schema: Schema) -> None:
        """Raises ValueError with a sentence for a schema that is none, or says what is not understood here."""
        self.root = schema
        try:
            problem = next(self._problems(schema, "#"), None)
        except RecursionError:
            problem = "is nested too deeply"
        if problem is not None:
            raise ValueError(problem)
        try:
            samples: tuple[Any, ...] = (None, True, 0, "", [], {})
            for value in samples:
                self.fits(value)
        except RecursionError:
            raise ValueError("goes in circles: a $ref leads back to itself with no value in between") from None

    def fits(self, value: Any) -> bool:
        """Whether a value, as `json.loads` gives it, fits. Raises RecursionError where the schema goes in circles."""
        return self._fits(self.root, value)

    def _fits(self, schema: Schema, value: Any) -> bool:
        if isinstance(schema, bool):
            return schema
        return all(
            CHECKS[keyword](self, argument, value, schema)
            for keyword, argument in schema.items()
            if keyword not in DESCRIBES
        )

    def _target(self, reference: str) -> Schema:
        """What `#/$defs/name` points to. Raises ValueError where it points nowhere."""
        found: Any = self.root
        for step in reference.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise ValueError(f"{reference} points to nothing in the schema")
            found = found[name]
        return found  # type: ignore[no-any-return]

    def _problems(self, schema: Any, where: str) -> Iterator[str]:
        """What is wrong with a schema and all schemas in it."""
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            yield f"{where} is no schema: it must be an object, true or false"
            return
        for keyword, argument in schema.items():
            place = f"{where}/{keyword}"
            if keyword not in CHECKS and keyword not in DESCRIBES:
                yield f"{place} is a keyword that is not understood here (known: {', '.join(sorted(CHECKS))})"
            elif keyword == "$ref":
                yield from self._reference_problems(argument, place)
            elif keyword in ARGUMENTS and not ARGUMENTS[keyword](argument):
                yield f"{place} holds {argument!r}, which it cannot"
            elif keyword in ONE:
                yield from self._problems(argument, place)
            elif keyword in LISTS:
                for at, inner in enumerate(argument):
                    yield from self._problems(inner, f"{place}/{at}")
            elif keyword in MAPPINGS:
                for name, inner in argument.items():
                    yield from self._problems(inner, f"{place}/{name}")

    def _reference_problems(self, reference: Any, where: str) -> Iterator[str]:
        if not isinstance(reference, str) or not re.fullmatch(r"#(/.*)?", reference):
            yield f"{where} is {reference!r}: only references within the schema (#/$defs/NAME) are followed"
            return
        try:
            self._target(reference)
        except ValueError as error:
            yield f"{where}: {error}"


# --- what each keyword asks: (validator, its argument, the value, the schema it stands in) -------------------------

Check: TypeAlias = Callable[[Validator, Any, Any, dict[str, Any]], bool]

ONE = frozenset(["additionalProperties", "items", "contains", "not", "if", "then", "else", "propertyNames"])
LISTS = frozenset(["allOf", "anyOf", "oneOf", "prefixItems"])
MAPPINGS = frozenset(["properties", "patternProperties", "$defs", "definitions"])


def equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, and neither is true."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


def _of(kind: str, test: Callable[[Any, Any], bool]) -> Check:
    """A keyword that says something of values of one type, and lets all others be."""
    return lambda validator, argument, value, schema: not TYPES[kind](value) or test(value, argument)


def _type(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return any(TYPES[name](value) for name in ([argument] if isinstance(argument, str) else argument))


def _properties(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return not isinstance(value, dict) or all(
        validator._fits(inner, value[name]) for name, inner in argument.items() if name in value
    )


def _pattern_properties(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return not isinstance(value, dict) or all(
        validator._fits(inner, item)
        for pattern, inner in argument.items()
        for name, item in value.items()
        if found(re.compile(pattern), name)
    )


def _additional(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [name for name in value if name not in known and not any(found(re.compile(one), name) for one in patterns)]
    return all(validator._fits(argument, value[name]) for name in others)


def _items(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    rest = value[len(schema.get("prefixItems", [])) :] if isinstance(value, list) else []
    return all(validator._fits(argument, item) for item in rest)


def _prefix(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return not isinstance(value, list) or all(map(validator._fits, argument, value))


def _contains(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return not isinstance(value, list) or any(validator._fits(argument, item) for item in value)


def _names(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return not isinstance(value, dict) or all(validator._fits(argument, name) for name in value)


def _if(validator: Validator, argument: Any, value: Any, schema: dict[str, Any]) -> bool:
    return validator._fits(schema.get("then" if validator._fits(argument, value) else "else", True), value)


def _unique(value: list[Any], argument: bool) -> bool:
    return not argument or not any(equal(value[i], value[j]) for i in range(len(value)) for j in range(i))


def _multiple(value: float, argument: float) -> bool:
    return Decimal(str(value)) % Decimal(str(argument)) == 0  # as they are written: 0.3 is three times 0.1


CHECKS: dict[str, Check] = {
    "type": _type,
    "enum": lambda validator, argument, value, schema: any(equal(value, one) for one in argument),
    "const": lambda validator, argument, value, schema: equal(value, argument),
    "$ref": lambda validator, argument, value, schema: validator._fits(validator._target(argument), value),
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    "required": _of("object", lambda value, names: all(name in value for name in names)),
    "minProperties": _of("object", lambda value, least: len(value) >= least),
    "maxProperties": _of("object", lambda value, most: len(value) <= most),
    "items": _items,
    "prefixItems": _prefix,
    "contains": _contains,
    "minItems": _of("array", lambda value, least: len(value) >= least),
    "maxItems": _of("array", lambda value, most: len(value) <= most),
    "uniqueItems": _of("array", _unique),
    "minLength": _of("string", lambda value, least: len(value) >= least),
    "maxLength": _of("string", lambda value, most: len(value) <= most),
    "pattern": _of("string", lambda value, pattern: found(re.compile(pattern), value)),
    "minimum": _of("number", lambda value, least: value >= least),
    "maximum": _of("number", lambda value, most: value <= most),
    "exclusiveMinimum": _of("number", lambda value, least: value > least),
    "exclusiveMaximum": _of("number", lambda value, most: value < most),
    "multipleOf": _of("number", _multiple),
    "allOf": lambda validator, argument, value, schema: all(validator._fits(one, value) for one in argument),
    "anyOf": lambda validator, argument, value, schema: any(validator._fits(one, value) for one in argument),
    "oneOf": lambda validator, argument, value, schema: sum(validator._fits(one, value) for one in argument) == 1,
    "not": lambda validator, argument, value, schema: not validator._fits(argument, value),
    "if": _if,
}


def _count(argument: Any) -> bool:
    return TYPES["integer"](argument) and argument >= 0


def _texts(argument: Any) -> bool:
    return isinstance(argument, list) and all(isinstance(one, str) for one in argument)


def _types(argument: Any) -> bool:
    names = [argument] if isinstance(argument, str) else argument
    return _texts(names) and all(name in TYPES for name in names)


def _regex(argument: Any) -> bool:
    try:
        re.compile(argument)
    except (re.error, TypeError):
        return False
    return True


ARGUMENTS: dict[str, Callable[[Any], bool]] = {
    "type": _types,
    "enum": TYPES["array"],
    "required": _texts,
    "pattern": _regex,
    "patternProperties": lambda argument: isinstance(argument, dict) and all(map(_regex, argument)),
    "uniqueItems": TYPES["boolean"],
    "multipleOf": lambda argument: TYPES["number"](argument) and argument > 0,
    **{name: _count for name in CHECKS if name.endswith(("Items", "Length", "Properties")) and name.startswith("m")},
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), TYPES["number"]),
    **dict.fromkeys(LISTS, lambda argument: isinstance(argument, list)),
    **dict.fromkeys(MAPPINGS - {"patternProperties"}, TYPES["object"]),
}
"""What a keyword's argument must be."""
