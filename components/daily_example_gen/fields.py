"""The fields of an event that ingestion reads, as plain data that workers can be sent."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pyarrow as pa

from schemas.features import CategoricalFeature
from schemas.spec import RankingSpec

Kind = Literal["id", "string", "int", "number", "binary"]

ID = "events.id"
"""Name of the column of ids; no feature and no label can have it."""

_ARROW: dict[Kind, pa.DataType] = {
    "id": pa.string(),
    "string": pa.string(),
    "int": pa.int64(),
    "number": pa.float32(),
    "binary": pa.float32(),
}


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of an event.

    Attributes:
        name: its name in the spec and in the tf.Example.
        kind: `id` takes a string or an integer, `number` a finite float32, `binary` 0 or 1.
        multivalued: the field holds a list.
        required: an event without a value is malformed.
        field: its name in the logs, where that is another one.
        path: the keys that lead to it in nested objects; empty where none may.
        max_length: most elements of a list; any number if None.
        too_long: what becomes of a longer one, as `CategoricalFeature.too_long`.
        minimum: smallest number that is not malformed.
        maximum: largest number that is not malformed.
    """

    name: str
    kind: Kind
    multivalued: bool = False
    required: bool = False
    field: str | None = None
    path: tuple[str, ...] = ()
    max_length: int | None = None
    too_long: Literal["truncate", "malformed"] = "truncate"
    minimum: float | None = None
    maximum: float | None = None

    @property
    def source(self) -> str:
        """Its name in the logs."""
        return self.field or self.name

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of the field's checked column; a missing list is an empty one."""
        flat = _ARROW[self.kind]
        return pa.list_(flat) if self.multivalued else flat


def event_fields(spec: RankingSpec) -> tuple[Field, ...]:
    """The fields of an event: its id first, then features, then labels.

    A dot in the name of a field may lead into an object, unless what is before it is a field.
    """
    fields = [Field(ID, "id", required=True, field=spec.events.id)]
    for name, feature in spec.logged.items():
        if isinstance(feature, CategoricalFeature):
            field = Field(name, feature.dtype, feature.multivalued, feature.required, feature.field)
            if feature.multivalued:
                field = dataclasses.replace(
                    field, max_length=feature.max_length, too_long=feature.too_long
                )
        else:
            field = Field(name, "number", required=feature.required, field=feature.field)
        fields.append(field)
    for task in spec.tasks.values():
        kind: Kind = "binary" if task.kind == "binary" else "number"
        field = Field(task.label, kind, required=not task.optional, field=task.field)
        if task.kind == "regression":
            field = dataclasses.replace(field, minimum=task.minimum, maximum=task.maximum)
        fields.append(field)
    sources = {field.source for field in fields}
    return tuple(
        dataclasses.replace(field, path=_nested_path(field.source, sources)) for field in fields
    )


def _nested_path(source: str, sources: set[str]) -> tuple[str, ...]:
    keys = tuple(source.split("."))
    above = {".".join(keys[:depth]) for depth in range(1, len(keys))}
    return keys if len(keys) > 1 and all(keys) and not above & sources else ()


def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Schema of checked events, in the order of `fields`."""
    return pa.schema([(field.name, field.arrow_type) for field in fields])
