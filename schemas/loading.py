"""Reads ranking specs: YAML files and texts, with overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from schemas.documents import DocumentError, describe, load_yaml
from schemas.errors import SpecError
from schemas.features import Feature
from schemas.spec import Events, RankingSpec, Serving, misfits
from schemas.tasks import Evaluation, Task
from schemas.values import Name


def parse_spec(text: str, source: str, overrides: Sequence[str] = ()) -> RankingSpec:
    """Reads a ranking spec.

    Args:
        text: the YAML document.
        source: what to call the document in error messages, usually its path.
        overrides: assignments such as `training.learning_rate=0.1`; the right side is YAML.

    Returns:
        The validated spec.

    Raises:
        SpecError: naming the document, the field and what is wrong with it.
    """
    content = _load_yaml(text, source)
    if not isinstance(content, dict):
        raise SpecError(f"{source}: expected a mapping with 'features', 'tasks', ...")
    for override in overrides:
        _apply_override(content, override)
    try:
        return RankingSpec.model_validate(content)
    except pydantic.ValidationError as error:
        faults = describe(error, RankingSpec)
        if any(item["loc"] for item in error.errors()):
            faults += _misfits_of_the_rest(content)
        raise SpecError("\n".join(f"{source}: {fault}" for fault in faults)) from error


def _misfits_of_the_rest(content: Mapping[str, Any]) -> list[str]:
    """As `misfits`, of a document some of whose parts are not well-formed themselves."""
    wrong: set[str] = set()
    parts: dict[str, dict[str, Any]] = {}
    for section, kind in (("features", Feature), ("tasks", Task)):
        given = content.get(section)
        if not isinstance(given, dict):
            return []
        valid = {name: _valid(kind, value) for name, value in given.items()}
        parts[section] = {name: part for name, part in valid.items() if part is not None}
        wrong |= valid.keys() - parts[section].keys()
    events = _valid(Events, content.get("events", {})) or Events()
    slices = _valid(tuple[Name, ...], content.get("slices", ())) or ()
    serving = _valid(Serving, content.get("serving"))
    score = "1" if serving is None else serving.score
    evaluation = _valid(Evaluation, content.get("evaluation", {})) or Evaluation()
    faults = misfits(events, parts["features"], parts["tasks"], slices, score, evaluation.group_by)
    # What is said of a part that is wrong itself, or of an unknown score, is not news.
    told = [repr(name) for name in wrong] + (["serving.score:"] if serving is None else [])
    return [fault for fault in faults if not any(name in fault for name in told)]


def _valid(kind: Any, value: Any) -> Any:
    try:
        return pydantic.TypeAdapter(kind).validate_python(value)
    except pydantic.ValidationError:
        return None


def parse_overrides(text: str) -> list[str]:
    """Reads overrides given as one text, a JSON list of assignments.

    Raises:
        SpecError: it is not such a list, or one of them is not an assignment.
    """
    try:
        overrides = json.loads(text)
    except (ValueError, RecursionError):
        overrides = None
    if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
        shown = text if len(text) < 80 else text[:77] + "..."
        raise SpecError(
            f"overrides: expected a JSON list of assignments such as "
            f'["training.epochs=2"], got {shown}'
        )
    for override in overrides:
        check_override(override)
    return overrides


def check_override(override: str) -> None:
    """Checks that a text is an assignment, whatever the spec that it is for.

    Raises:
        SpecError: it is none.
    """
    _apply_override({}, override)


def load_spec(path: str, overrides: Sequence[str] = ()) -> RankingSpec:
    """Reads the ranking spec at a local path; see `parse_spec`.

    Raises:
        SpecError: as `parse_spec`, or where the file cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from error
    return parse_spec(text, path, overrides)


def _apply_override(content: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SpecError(f"override {override!r}: expected FIELD.FIELD=VALUE")
    node = content
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise SpecError(f"override {override!r}: {'.'.join(keys[: depth + 1])} has no fields")
        node = child
    node[keys[-1]] = _load_yaml(value, f"override {override!r}")


def _load_yaml(text: str, source: str) -> Any:
    try:
        return load_yaml(text)
    except DocumentError as error:
        raise SpecError(f"{source}: {error}") from error
