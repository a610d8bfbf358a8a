"""Kinds of values that the parts of a ranking spec are made of."""

from __future__ import annotations

import re
from typing import Annotated, Any

import pydantic
from pydantic import Field

MAX_NAME = 128
MAX_SPEC_NAME = 63
"""TFX takes no longer name of a pipeline: Argo's workflows and Kubernetes' labels do not."""
MAX_DAYS = 3660
_MAX_INT = 2**32 - 1
_MAX_FLOAT = 3.4e38
_NAME = re.compile(r"[a-z](_?[a-z0-9])*")
_SPEC_NAME = re.compile(r"[a-z][a-z0-9-]*")
FIELD_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,255}")


def _a_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name: lower-case letters, digits and single underscores, a letter "
            "first. If the logs call it something else, give that as 'field'"
        )
    if len(name) > MAX_NAME:
        raise ValueError(f"a name has at most {MAX_NAME} characters, this one has {len(name)}")
    return name


def _a_spec_name(name: str) -> str:
    if not _SPEC_NAME.fullmatch(name):
        raise ValueError(f"must be lower-case letters, digits and -, a letter first, got {name!r}")
    if len(name) > MAX_SPEC_NAME:
        raise ValueError(f"at most {MAX_SPEC_NAME} characters, got {len(name)}: {name!r}")
    return name


def _a_field_name(name: str) -> str:
    if not FIELD_NAME.fullmatch(name):
        raise ValueError(f"must be 1 to 255 characters without control characters, got {name!r}")
    return name


def _text(title: str, pattern: re.Pattern[str], most: int) -> pydantic.WithJsonSchema:
    """How a text is declared in the JSON Schema; the title is its type in `docs/spec.md`."""
    return pydantic.WithJsonSchema(
        {"type": "string", "title": title, "pattern": f"^({pattern.pattern})$", "maxLength": most}
    )


Name = Annotated[str, pydantic.AfterValidator(_a_name), _text("name", _NAME, MAX_NAME)]
SpecName = Annotated[
    str, pydantic.AfterValidator(_a_spec_name), _text("spec name", _SPEC_NAME, MAX_SPEC_NAME)
]
FieldName = Annotated[
    str, pydantic.AfterValidator(_a_field_name), _text("field name", FIELD_NAME, 255)
]
Units = Annotated[int, Field(ge=1, le=65_536)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the lower bound is larger than the upper one")
    return bounds


Bounds = Annotated[
    tuple[float, float],
    pydantic.AfterValidator(_ordered),
    pydantic.WithJsonSchema(
        {
            "type": "array",
            "title": "pair of numbers, lower first",
            "items": {"type": "number"},
            "minItems": 2,
            "maxItems": 2,
        }
    ),
]
AUTO: Any = "auto"
"""In place of a number: it follows the size of the data, see `Training.fitted`."""
FOLLOWS = -1
"""What a field that is `AUTO` holds until then: no number that a field could have."""


def _from_auto(value: Any) -> Any:
    if value == AUTO:
        return FOLLOWS
    if isinstance(value, int | float) and value < 0:
        raise ValueError(f"must be {AUTO}, or a number that is not negative, got {value}")
    return value


def _positive(value: int) -> int:
    if value == 0:
        raise ValueError(f"must be {AUTO}, or a number of at least 1, got 0")
    return value


_to_auto = pydantic.PlainSerializer(lambda value: AUTO if value == FOLLOWS else value)
AutoCount = Annotated[
    int,
    pydantic.BeforeValidator(_from_auto),
    pydantic.AfterValidator(_positive),
    _to_auto,
    pydantic.WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"const": AUTO}]}),
]
AutoNumber = Annotated[
    float,
    pydantic.BeforeValidator(_from_auto),
    _to_auto,
    pydantic.WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": AUTO}]}),
]


class SpecPart(pydantic.BaseModel):
    """A part of a ranking spec: immutable, without unknown fields, numbers within reach."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.field_validator("*")
    @classmethod
    def _number_in_reach(cls, value: Any) -> Any:
        """Whole numbers fit into 32 bits, others into float32: what is below computes with."""
        if isinstance(value, int) and value > _MAX_INT:
            raise ValueError(f"must be at most {_MAX_INT}, got {value}")
        if isinstance(value, float) and abs(value) > _MAX_FLOAT:
            raise ValueError(f"must be within {_MAX_FLOAT:g} of 0, got {value:g}")
        return value
