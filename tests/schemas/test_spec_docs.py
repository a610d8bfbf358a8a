import pathlib
import re

import pydantic
import pytest
import yaml

from schemas import features, formula, spec, tasks, training
from schemas.errors import SpecError
from schemas.loading import parse_spec
from schemas.values import SpecPart

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "spec.md").read_text(encoding="utf-8")


def declared() -> list[type[pydantic.BaseModel]]:
    """The parts of a spec that a file can hold; a gate's slices repeat the gate's bounds."""
    models = [
        value
        for module in (features, tasks, training, spec)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, SpecPart)
        and value.__module__ == module.__name__
    ]
    return [model for model in models if not any(model in other.__bases__ for other in models)]


def table(heading: str) -> dict[str, list[str]]:
    """The first table below the heading that contains `heading`: cells by first cell."""
    section = re.search(rf"^#+ [^\n]*{re.escape(heading)}.*?(?=^#+ |\Z)", TEXT, re.M | re.S)
    assert section, f"docs/spec.md has no section for {heading}"
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section[0], re.M)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


@pytest.mark.parametrize("model", declared(), ids=lambda model: model.__name__)
def test_table_lists_the_fields_and_their_defaults(model):
    rows = table(f"(`{model.__name__}`)")
    presets = set(training.PRESETS) if model is training.Architecture else set()
    assert [name for name in rows if name not in presets] == list(model.model_fields)
    for name, field in model.model_fields.items():
        _, default, meaning = rows[name]
        assert meaning
        if field.is_required():
            assert default == "required", name
        elif isinstance(field.default, pydantic.BaseModel):
            assert default == "see below", name
        else:
            shown = yaml.safe_load(default.strip("`"))
            actual = field.default
            if isinstance(actual, tuple):
                actual = [
                    value.model_dump(exclude_defaults=True)
                    if isinstance(value, pydantic.BaseModel)
                    else value
                    for value in actual
                ]
            # YAML 1.1 reads 1e-07 as a string; so does a spec, and pydantic then converts it.
            assert (float(shown) if isinstance(actual, float) else shown) == actual, name


def test_table_lists_the_presets():
    rows = table("(`Architecture`)")
    for name, preset in training.PRESETS.items():
        shared, tower, cross_layers = (yaml.safe_load(cell.strip("`")) for cell in rows[name])
        assert (tuple(shared), tuple(tower), cross_layers) == (
            preset.shared,
            preset.tower,
            preset.cross_layers,
        )


def test_the_rules_are_listed_with_their_thresholds():
    section = TEXT.split("| RULE |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| (\w+)(?:,[^|]*)? \| (.*) \|$", section, re.M))
    for rule, thresholds in training.RULE_THRESHOLDS.items():
        found = re.findall(r"(\w+) ([\d.e-]+)", rows[rule]) if thresholds else []
        assert {name: float(value) for name, value in found} == thresholds
    assert set(rows) - {"---"} == set(training.RULE_THRESHOLDS)


def test_every_function_of_the_formula_is_named():
    for name in formula.FUNCTIONS:
        assert f"`{name}(" in TEXT


def test_quoted_errors_are_real():
    demo = (pathlib.Path(spec.__file__).parent / "demo.yaml").read_text(encoding="utf-8")
    for override in ("tasks.click.gate.min_auc=1.5", "training.learningrate=1"):
        with pytest.raises(SpecError) as error:
            parse_spec(demo, "my.yaml", [override])
        assert str(error.value) in TEXT


def test_quoted_overrides_and_additions_are_valid():
    demo = (pathlib.Path(spec.__file__).parent / "demo.yaml").read_text(encoding="utf-8")
    section = TEXT.split("## Overrides")[1].split("##")[0]
    overrides = re.findall(r"^ {4}(\S+=.*)$", section, re.M)
    assert len(overrides) == 5
    parse_spec(demo, "demo.yaml", overrides)
    for kind in ("features", "tasks"):
        block = re.search(rf"^ {{4}}{kind}:\n(?: {{6}}.*\n)+", TEXT, re.M)
        assert block
        content = yaml.safe_load(demo)
        added = yaml.safe_load(block[0])[kind]
        content[kind].update(added)
        parsed = parse_spec(yaml.safe_dump(content), "demo.yaml")
        assert set(added) < set(getattr(parsed, kind))
