"""The features of a ranking spec: what each kind declares."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from schemas.values import MAX_DAYS, FieldName, Name, SpecPart


class CategoricalFeature(SpecPart):
    """An id or a category, hashed into `buckets` rows of an embedding table.

    Attributes:
        field: its name in the logs, where that is not the feature's.
        dtype: type of one value in the logs.
        buckets: rows of the embedding table; the hash is stable over days and machines.
        embedding: width of a row.
        multivalued: the field holds a list, pooled into one vector.
        pooling: how the rows of a multivalued feature are pooled; empty lists give zeros.
        table: name of another categorical feature whose embedding table is shared;
            `buckets` and `embedding` are then that feature's.
        max_length: most elements of a list.
        too_long: `truncate` keeps the first ones of a longer list, `malformed` refuses its
            event; requests to the served model are always truncated.
        required: an event without a value is malformed.
        max_drift: bound on the L-infinity distance between the run date's distribution
            and the training days' (TFDV drift comparator).
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
        field: its name in the logs, where that is not the feature's.
        scale: `log1p` squashes heavy tails (values below zero count as zero); `none`
            leaves the value as it is.
        default: value for an event that has none.
        minimum: smallest valid value; the TFDV schema's domain.
        maximum: largest valid value.
        required: an event without a value is malformed.
        max_drift: bound on the Jensen-Shannon divergence between days.
        max_skew: bound on the Jensen-Shannon divergence between training and serving.
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
    """What the days before an event's day say of one of its ids: a count, and a rate a task.

    The pipeline computes it from its own days (`components.history`) and the model takes it as
    dense features; no event has a field of this name.

    Attributes:
        of: the id, a single-valued categorical feature; several are one id together.
        tasks: tasks whose rates, or means, are taken; all if not given.
        days: days before the event's day that count.
        prior_strength: events like everyone's that are added to an id's own; of a binary task
            as many more as its labels' standard deviation is below 1.
        max_ids: ids whose history is kept, the most frequent ones; the others have none.
        serving: `table` lets the exported model look ids up in a table that it carries;
            `request` takes the values from the request.
    """

    type: Literal["history"]
    of: Annotated[tuple[Name, ...], pydantic.BeforeValidator(_as_names)] = Field(min_length=1)
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
RESERVED_FEATURES = {"self": "the exported model, whose requests name their features"}
"""Names that TensorFlow's signatures take themselves, and for what."""
