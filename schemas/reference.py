"""The spec's reference: the tables of `docs/spec.md` and a JSON Schema for editors.

Both follow from the fields' types and from the `Attributes` of their classes' docstrings, so a
field is described once. `python -m schemas.reference` (`make reference`) rewrites the files.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from schemas.spec import RankingSpec
from schemas.values import SpecPart

JSON_SCHEMA = Path(__file__).parent / "ranking-spec.schema.json"
"""Ships with the package; `docs/spec.md` says how an editor uses it."""
_DOCUMENT = Path(__file__).parents[1] / "docs" / "spec.md"
_MANY = 8
"""A field with more choices than this is described in words, not by listing them."""


def descriptions(part: type) -> dict[str, str]:
    """What the docstrings of a part of the spec, and of its base classes, say of its fields."""
    found: dict[str, str] = {}
    owners = [owner for owner in reversed(part.__mro__) if issubclass(owner, SpecPart)]
    for owner in owners:
        _, _, section = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")
        entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.M)
        found.update((name, " ".join(text.split()).rstrip(".")) for name, text in entries)
    return found


class _Described(GenerateJsonSchema):
    """Pydantic's generator; descriptions come from docstrings, and titles are not made up."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> dict[str, Any]:
        part = schema["cls"]
        result = super().model_schema(schema)
        result["description"] = result["description"].partition("\n")[0]
        said = descriptions(part)
        for name, field in result["properties"].items():
            if name in part.model_fields:
                field["description"] = said[name]
        return result

    def dict_schema(self, schema: Any) -> dict[str, Any]:
        result = super().dict_schema(schema)
        if "patternProperties" in result:
            result["additionalProperties"] = False
        return result


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a ranking spec file."""
    return RankingSpec.model_json_schema(schema_generator=_Described)


def parts() -> list[type[SpecPart]]:
    """Every part of a spec that has a table of its own; a gate's slices repeat its bounds."""
    found: list[type[SpecPart]] = []
    waiting = list(SpecPart.__subclasses__())
    while waiting:
        part = waiting.pop(0)
        below = part.__subclasses__()
        waiting += below
        if not below:
            found.append(part)
    return found


def table(part: type[SpecPart]) -> str:
    """The table of a part's fields, in Markdown."""
    schema = part.model_json_schema(schema_generator=_Described)
    rows = ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in part.model_fields.items():
        declared = schema["properties"][name]
        cells = (f"`{name}`", _type(declared), _default(field), declared["description"])
        rows.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(rows)


def document(text: str) -> str:
    """`docs/spec.md` with the first table below each part's heading made anew.

    Raises:
        ValueError: a part has no heading that names it, or no table below it.
    """
    for part in parts():
        pattern = rf"(^#+ [^\n]*\(`{part.__name__}`\)\n(?:(?!^#).*\n)*?)(?:^\|.*\n)+"
        text, made = re.subn(
            pattern,
            lambda match, part=part: match[1] + table(part) + "\n",  # type: ignore[misc]
            text,
            flags=re.M,
        )
        if made != 1:
            raise ValueError(f"docs/spec.md needs one heading with (`{part.__name__}`) and a table")
    return text


def _type(schema: Mapping[str, Any]) -> str:
    if "title" in schema:
        return schema["title"]
    if "anyOf" in schema:
        return ", or ".join(map(_type, schema["anyOf"]))
    choices = schema.get("enum", [schema["const"]] if "const" in schema else [])
    if choices:
        if len(choices) > _MANY:
            return f"one of {len(choices)} names"
        return ", ".join(f"`{choice}`" for choice in choices)
    kind = schema.get("type", "object")
    if kind in ("integer", "number"):
        return {"integer": "int", "number": "number"}[kind] + _range(schema)
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        count = f"{least} to {most} " if most else "one or more " if least else ""
        item, *rest = _type(schema["items"]).split(" ", 1)
        return " ".join([f"list of {count}{item}s", *rest])
    named = {"string": "text", "boolean": "bool", "null": "`null`"}
    return named.get(kind, "mapping" + (", not empty" if schema.get("minProperties") else ""))


def _range(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']:g}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[key]:.10g}" for key, sign in signs.items() if key in schema]
    return " " + ", ".join(bounds) if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, pydantic.BaseModel):
        return "see below"
    value = field.default
    if isinstance(value, tuple):
        value = [
            item.model_dump(exclude_defaults=True) if isinstance(item, SpecPart) else item
            for item in value
        ]
    shown = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{shown}`"


def main() -> None:
    """Writes both files."""
    JSON_SCHEMA.write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
    _DOCUMENT.write_text(document(_DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
