"""The fields of an event that ingestion reads, as plain data that workers can be sent."""

from __future__ import annotations

import dataclasses
from typing import Literal

import pyarrow as pa

from schemas.spec import CategoricalFeature, RankingSpec

Kind = Literal["id", "string", "int", "number", "binary"]

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
        name: its name in the logs and in the tf.Example.
        kind: `id` takes a string or an integer, `number` a finite float32, `binary` 0 or 1.
        multivalued: the field holds a list.
        required: an event without a value is malformed.
    """

    name: str
    kind: Kind
    multivalued: bool = False
    required: bool = False

    @property
    def arrow_type(self) -> pa.DataType:
        """Type of the field's checked column; a missing list is an empty one."""
        flat = _ARROW[self.kind]
        return pa.list_(flat) if self.multivalued else flat


def event_fields(spec: RankingSpec) -> tuple[Field, ...]:
    """The fields of an event: its id first, then features, then labels."""
    fields = [Field(spec.events.id, "id", required=True)]
    for name, feature in spec.features.items():
        if isinstance(feature, CategoricalFeature):
            fields.append(Field(name, feature.dtype, feature.multivalued, feature.required))
        else:
            fields.append(Field(name, "number", required=feature.required))
    for task in spec.tasks.values():
        kind: Kind = "binary" if task.kind == "binary" else "number"
        fields.append(Field(task.label, kind, required=not task.optional))
    return tuple(fields)


def arrow_schema(fields: tuple[Field, ...]) -> pa.Schema:
    """Schema of checked events, in the order of `fields`."""
    return pa.schema([(field.name, field.arrow_type) for field in fields])
