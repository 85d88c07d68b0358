"""A validator for the part of JSON Schema that the published schemas use; an unknown keyword is an error, so nothing is passed over."""

from collections.abc import Iterator
from typing import Any

ANNOTATIONS = {"$schema", "$defs", "title", "description"}
TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def problems(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, place: str = "$") -> list[str]:
    """What of the document breaks the schema, each with its place."""
    return list(_problems(value, schema, root or schema, place))


def _problems(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str) -> Iterator[str]:
    for keyword, rule in schema.items():
        match keyword:
            case "$ref":
                target: Any = root
                for part in rule.removeprefix("#/").split("/"):
                    target = target[part]
                yield from _problems(value, target, root, place)
            case "type":
                if not is_type(value, rule):
                    yield f"{place} must be {rule}, got {value!r}"[:200]
            case "const":
                if value != rule:
                    yield f"{place} must be {rule!r}, got {value!r}"[:200]
            case "enum":
                if value not in rule:
                    yield f"{place} must be one of {rule}, got {value!r}"[:200]
            case "minimum":
                if is_type(value, "number") and value < rule:
                    yield f"{place} must be at least {rule}, got {value!r}"
            case "required":
                for name in rule if isinstance(value, dict) else ():
                    if name not in value:
                        yield f"{place} must have {name}"
            case "properties":
                for name, inner in rule.items() if isinstance(value, dict) else ():
                    if name in value:
                        yield from _problems(value[name], inner, root, f"{place}.{name}")
            case "additionalProperties":
                known = schema.get("properties", {})
                for name in value if isinstance(value, dict) else ():
                    if name in known or rule is True:
                        continue
                    if rule is False:
                        yield f"{place} must not have {name}"
                    else:
                        yield from _problems(value[name], rule, root, f"{place}.{name}")
            case "items":
                for index, item in enumerate(value if isinstance(value, list) else ()):
                    yield from _problems(item, rule, root, f"{place}[{index}]")
            case "anyOf":
                found = [list(_problems(value, option, root, place)) for option in rule]
                if all(found):
                    yield f"{place} fits none of {len(rule)} forms: {found[0][0]}"
            case "allOf":
                for option in rule:
                    yield from _problems(value, option, root, place)
            case "if":
                if not list(_problems(value, rule, root, place)):
                    yield from _problems(value, schema.get("then", {}), root, place)
            case "then":
                pass
            case _:
                if keyword not in ANNOTATIONS:
                    raise ValueError(f"the validator must know every keyword of the schema, got {keyword!r} at {place}")


def is_type(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        return not isinstance(value, bool) and isinstance(value, int | float if name == "number" else int)
    return isinstance(value, TYPES[name])
