"""YAML documents that people write: read without surprises, and what is wrong in plain words."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
import yaml

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000
"""Values of a document once each alias stands for what it names."""


_MERGE = "tag:yaml.org,2002:merge"


class DocumentError(ValueError):
    """The text is not a document that can be read."""


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but of two fields with one name it would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            name = self.construct_object(key, deep=True)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the field {name!r} appears twice", key.start_mark
                )
            seen.add(str(name))
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Reads a YAML document.

    Raises:
        DocumentError: it is none, holds a field twice, or is far too large, be it through
            aliases of aliases.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"more than {MAX_BYTES >> 20} MiB of YAML")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > MAX_VALUES:
            raise DocumentError(f"its aliases (*name) stand for more than {MAX_VALUES} values")
        return loader.construct_document(node)
    except DocumentError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DocumentError(f"not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Number of values below a node, those of an alias counted wherever it stands."""
    if node not in known:
        known[node] = 0
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        else:
            children = node.value if isinstance(node, yaml.SequenceNode) else []
        known[node] = 1 + sum(_size(child, known) for child in children)
    elif not known[node]:
        raise DocumentError(f"a value that holds itself, line {node.start_mark.line + 1}")
    return known[node]


def describe(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> list[str]:
    """Says what is wrong with a document, as `field.field: what`, a line a fault.

    Args:
        error: of validating the document.
        model: what it was validated as.
    """
    lines = []
    for item in error.errors():
        path, fields = _walk(model, item["loc"])
        if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            path.append(item["ctx"]["discriminator"].strip("'"))
        where = ".".join(path)
        # One check may find several faults.
        lines += [f"{where}: {what}" if where else what for what in _what(item, fields).split("\n")]
    return lines


def _what(item: Mapping[str, Any], fields: list[str]) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), fields, n=1)
        return "no such field" + (f"; did you mean {near[0]!r}?" if near else "")
    if kind in ("missing", "union_tag_not_found"):
        return "required, and missing"
    if kind == "value_error":
        return str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    if kind == "union_tag_invalid":
        expected, value = _or(context["expected_tags"]), context["tag"]
    else:
        expected = _expected(kind, context) or str(item["msg"])
    shown = "nothing" if value is None else repr(value)
    return f"{expected}, got {shown if len(shown) < 80 else shown[:77] + '...'}"


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("more than", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("less than", "lt"),
    }
    if kind in bounds:
        words, bound = bounds[kind]
        return f"must be {words} {str(context[bound]).removesuffix('.0')}"
    if kind == "literal_error":
        return f"must be {context['expected']}"
    if kind == "too_short":
        return f"must hold at least {context['min_length']}"
    if kind == "too_long":
        return f"must hold at most {context['max_length']}"
    kinds = {
        "int": "must be a whole number",
        "float": "must be a number",
        "finite": "must be a finite number",
        "bool": "must be true or false",
        "string": "must be text",
        "dict": "must be a mapping of fields",
        "model": "must be a mapping of fields",
        "list": "must be a list",
        "tuple": "must be a list",
    }
    start, _, rest = kind.partition("_")
    # What is wrong with a text beyond that says pydantic well: its length, its pattern.
    return kinds.get(start, "") if start != "string" or rest == "type" else ""


def _or(tags: str) -> str:
    return "must be " + " or ".join(tags.split(", "))


def _walk(
    model: type[pydantic.BaseModel], location: tuple[int | str, ...]
) -> tuple[list[str], list[str]]:
    """The path in the document, and the fields beside its last part, where they are known.

    pydantic's location also has the tag of a union's member, and what it calls a key.
    """
    path: list[str] = []
    fields: list[str] = []
    annotation: Any = model
    for part in location:
        if part == "[key]":
            continue
        members = list(_members(annotation))
        tagged = [member for member in members if part in _tags(member)]
        if tagged and path:
            annotation = tagged[0]
            continue
        path.append(str(part))
        annotation, fields = None, []
        for member in members:
            if isinstance(member, type) and issubclass(member, pydantic.BaseModel):
                fields = list(member.model_fields)
                if part in fields:
                    annotation = member.model_fields[str(part)].annotation
            elif get_args(member):
                annotation = get_args(member)[1 if get_origin(member) is dict else 0]
    return path, fields


def _members(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not None:
        yield annotation


def _tags(member: Any) -> tuple[Any, ...]:
    """The value of a required literal field, which tells the members of a union apart."""
    if not (isinstance(member, type) and issubclass(member, pydantic.BaseModel)):
        return ()
    return tuple(
        tag
        for field in member.model_fields.values()
        if field.is_required()
        for tag in get_args(field.annotation)
        if isinstance(tag, str)
    )
