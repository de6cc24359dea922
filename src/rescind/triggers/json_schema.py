"""JSON Schema as types of msgspec, as far as there are such types.

Understood are `type`, `properties`, `required`, `items`, `enum`, `const`, `additionalProperties`, and bounds of numbers
and of a text's length. Any other keyword is refused when it is declared, and never passed over. A number without a
fraction is an integer only if it is written as one.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, cast

import msgspec

_DEPTH_MAX = 16
_PROPERTIES_MAX = 200
_NOTES = frozenset(
    ("title", "description", "default", "examples", "$schema", "$id", "$comment", "format", "deprecated", "readOnly")
)
_TYPES: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "null": None,
    "array": list[Any],
    "object": dict[str, Any],
}
_BOUNDS = {
    "minimum": ("ge", (int, float)),
    "maximum": ("le", (int, float)),
    "exclusiveMinimum": ("gt", (int, float)),
    "exclusiveMaximum": ("lt", (int, float)),
    "minLength": ("min_length", (str,)),
    "maxLength": ("max_length", (str,)),
}


def type_of(schema: object, place: str = "$", depth: int = 0) -> Any:
    """The type that a schema means.

    Args:
        schema: As JSON values.
        place: Where it stands, for messages.
        depth: How deep that is.

    Raises: ValueError, for what is no schema, or holds what is not understood.
    """
    if not isinstance(schema, Mapping):
        raise ValueError(f"the schema at {place} is {schema!r:.60}; it must be a mapping")
    if depth > _DEPTH_MAX:
        raise ValueError(f"the schema at {place:.80} is nested deeper than {_DEPTH_MAX}")
    said = dict(cast("Mapping[str, Any]", schema))
    for note in _NOTES:
        said.pop(note, None)
    if "enum" in said or "const" in said:
        return _choice(said, place)
    names = said.pop("type", None)
    kinds: list[str] = [names] if isinstance(names, str) else list(names or ())
    if not kinds and "properties" in said:
        kinds = ["object"]
    unknown = [kind for kind in kinds if kind not in _TYPES]
    if unknown:
        raise ValueError(f"the schema at {place} has type {unknown[0]!r:.60}; known are {', '.join(_TYPES)}")
    types = [_kind(kind, said, place, depth) for kind in kinds]
    if said:
        raise ValueError(
            f"the schema at {place} has {next(iter(said))!r:.60}, which is not understood here; leave it out, "
            "or annotate the tool's result with a type"
        )
    return _one_of(types)


def _one_of(types: list[Any]) -> Any:
    found: Any = types[0] if types else Any
    for kind in types[1:]:
        found = found | kind
    return found


def _kind(kind: str, said: dict[str, Any], place: str, depth: int) -> Any:
    if kind == "object":
        return _object(said, place, depth)
    if kind == "array" and "items" in said:
        item: Any = type_of(said.pop("items"), f"{place}[…]", depth + 1)
        return list.__class_getitem__(item)
    basic = _TYPES[kind]
    bounds = {
        meta: said.pop(keyword) for keyword, (meta, kinds) in _BOUNDS.items() if keyword in said and basic in kinds
    }
    try:
        return Annotated[basic, msgspec.Meta(**bounds)] if bounds else basic
    except (TypeError, ValueError) as error:
        raise ValueError(f"the schema at {place} has a bound that is none: {error}") from error


def _object(said: dict[str, Any], place: str, depth: int) -> Any:
    properties, required = said.pop("properties", {}), said.pop("required", ())
    further = said.pop("additionalProperties", True)
    if not isinstance(properties, Mapping) or isinstance(required, str) or not isinstance(required, Iterable):
        raise ValueError(f"the schema at {place} needs a mapping of properties, and a list of those required")
    if not isinstance(further, bool):
        raise ValueError(f"the schema at {place} has additionalProperties other than true or false")
    given = cast("Mapping[str, Any]", properties)
    needed = set(cast("Iterable[str]", required))
    names = [*given, *sorted(needed - set(given))]
    if len(names) > _PROPERTIES_MAX:
        raise ValueError(f"the schema at {place} has {len(names)} properties; at most {_PROPERTIES_MAX} are checked")
    if not names and further:
        return dict[str, Any]
    fields: list[Any] = []
    for number, name in enumerate(names):
        kind = type_of(given.get(name, {}), f"{place}.{name}", depth + 1)
        fields.append(
            (f"f{number}", kind) if name in needed else (f"f{number}", kind | msgspec.UnsetType, msgspec.UNSET)
        )
    return msgspec.defstruct(
        "Object",
        fields,
        rename={f"f{number}": name for number, name in enumerate(names)},
        kw_only=True,
        forbid_unknown_fields=not further,
    )


def _choice(said: dict[str, Any], place: str) -> Any:
    values = said.pop("enum", None) if "enum" in said else [said.pop("const")]
    said.pop("type", None)
    if said or not isinstance(values, list | tuple) or not values:
        raise ValueError(f"the schema at {place} has a choice that is no list, or more than a choice")
    choices = cast("list[Any]", values)
    if any(type(value) not in (str, int, type(None)) for value in choices):
        raise ValueError(f"the schema at {place} has a choice of other values than texts, whole numbers and null")
    return Literal[tuple(choices)]
