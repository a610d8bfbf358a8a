"""The features of a ranking spec: what each kind declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from schemas.values import MAX_DAYS, FieldName, Name, SpecPart


class CategoricalFeature(SpecPart):
    """An id or a category, hashed into `buckets` rows of an embedding table.

    Attributes:
        type: the kind of feature.
        field: its name in the logs, if that differs from the feature's name.
        dtype: type of one value in the logs.
        buckets: rows of the embedding table; the hash is the same on every day and machine.
        embedding: width of a row.
        multivalued: whether the field holds a list, which is pooled into one vector.
        pooling: how the rows of a multivalued feature are pooled; an empty list gives zeros.
        table: another categorical feature whose embedding table this one shares; `buckets` and
            `embedding` then come from that feature.
        max_length: the longest list that is taken whole.
        too_long: what happens to a longer list: `truncate` keeps its first `max_length`
            elements, with a note; `malformed` refuses its event. Requests to the served model
            are always truncated.
        required: whether an event without a value is malformed.
        max_drift: largest L-infinity distance between the run date's distribution and that of
            the training days; a missing value counts as one more value (TFDV drift comparator).
        max_skew: the same for training against serving data (TFDV skew comparator).
    """

    type: Literal["categorical"]
    field: FieldName | None = None
    dtype: Literal["string", "int"] = "string"
    buckets: int | None = Field(default=None, ge=2)
    embedding: int | None = Field(default=None, ge=1, le=4096)
    multivalued: bool = False
    pooling: Literal["mean", "sum", "sqrtn"] = "mean"
    table: Name | None = None
    max_length: int = Field(default=1000, ge=1)
    too_long: Literal["truncate", "malformed"] = "truncate"
    required: bool = False
    max_drift: float | None = Field(default=None, gt=0.0, le=1.0)
    max_skew: float | None = Field(default=None, gt=0.0, le=1.0)

    @pydantic.model_validator(mode="after")
    def _has_a_table(self) -> CategoricalFeature:
        own = (self.buckets is not None, self.embedding is not None)
        if self.table is None and not all(own):
            raise ValueError("needs both 'buckets' and 'embedding', or a 'table' to share")
        if self.table is not None and any(own):
            raise ValueError("takes 'buckets' and 'embedding' from its 'table'; drop them")
        return self


class DenseFeature(SpecPart):
    """A number, squashed by `scale` and then normalised by the model.

    Attributes:
        type: the kind of feature.
        field: its name in the logs, if that differs from the feature's name.
        scale: `log1p` squashes heavy tails before the model normalises (values below zero count
            as zero); `none` leaves the value as it is.
        default: the value for an event that has none.
        minimum: smallest valid value (the domain in the TFDV schema).
        maximum: largest valid value.
        required: whether an event without a value is malformed.
        max_drift: largest Jensen-Shannon divergence between the run date and the training days;
            a missing value counts as one more value.
        max_skew: the same for training against serving data.
    """

    type: Literal["dense"]
    field: FieldName | None = None
    scale: Literal["none", "log1p"] = "none"
    default: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    required: bool = False
    max_drift: float | None = Field(default=None, gt=0.0, le=1.0)
    max_skew: float | None = Field(default=None, gt=0.0, le=1.0)

    @pydantic.model_validator(mode="after")
    def _domain_is_not_empty(self) -> DenseFeature:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("'minimum' is larger than 'maximum'")
        return self


def _as_names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class HistoryFeature(SpecPart):
    """What the days before an event's day say about one of its ids: a count, and a rate per task.

    The pipeline computes it from its own days (`components.history`), and the model takes it as
    dense features. Events have no field of this name.

    Attributes:
        type: the kind of feature.
        of: the id: a single-valued categorical feature. Several together make one id (a cross).
        tasks: the tasks whose rates (binary) or means (regression) are used; all tasks if null,
            `[]` for the count alone.
        days: how many days before the event's day count.
        prior_strength: how many average events are added to an id's own events; for a binary
            task this is divided by the standard deviation of its labels.
        max_ids: how many ids keep a history; the most frequent ones do, the others have none.
        serving: `table`: the exported model looks ids up in a table that it carries;
            `request`: it takes the values from the request.
    """

    type: Literal["history"]
    of: Annotated[
        tuple[Name, ...],
        pydantic.BeforeValidator(_as_names, json_schema_input_type=Name | tuple[Name, ...]),
    ] = Field(min_length=1)
    tasks: tuple[Name, ...] | None = None
    days: int = Field(default=30, ge=1, le=MAX_DAYS)
    prior_strength: float = Field(default=4.0, gt=0.0)
    max_ids: int = Field(default=1_000_000, ge=1)
    serving: Literal["table", "request"] = "table"


def history_column(name: str, task: str | None = None) -> str:
    """Name of a history feature's input: of its count, or of its rate of a task.

    The double underscores are in no other name of a spec.
    """
    return f"{name}__count" if task is None else f"{name}__{task}__rate"


Feature = Annotated[CategoricalFeature | DenseFeature | HistoryFeature, Field(discriminator="type")]
SMALL_TABLE = 512
"""Rows up to which an embedding table is of a category, and not of ids."""


def small_tables(features: Mapping[str, Feature]) -> list[str]:
    """Names of the categorical features whose table has at most `SMALL_TABLE` rows.

    Args:
        features: of the spec, by name.
    """
    found = []
    for name, feature in features.items():
        if isinstance(feature, CategoricalFeature):
            owner = features.get(feature.table or name)
            if isinstance(owner, CategoricalFeature) and 0 < (owner.buckets or 0) <= SMALL_TABLE:
                found.append(name)
    return found


RESERVED_FEATURES = {"self": "the exported model, whose requests name their features"}
"""Names that TensorFlow's signatures take themselves, and for what."""
