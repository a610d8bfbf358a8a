import functools
import json
import pathlib
import re

import jsonschema
import pytest
import yaml

from schemas import formula, reference, spec, training
from schemas.errors import SpecError
from schemas.loading import parse_spec

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")


def table(heading: str) -> dict[str, list[str]]:
    """The first table below the heading that contains `heading`: cells by first cell."""
    section = re.search(rf"^#+ [^\n]*{re.escape(heading)}.*?(?=^#+ |\Z)", TEXT, re.M | re.S)
    assert section, f"docs/spec.md has no section for {heading}"
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", section[0], re.M)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def test_the_tables_are_those_of_the_fields():
    assert reference.document(TEXT) == TEXT, "out of date: run `python -m schemas.reference`"


def test_the_json_schema_is_that_of_the_fields():
    committed = json.loads(reference.JSON_SCHEMA.read_text(encoding="utf-8"))
    assert committed == reference.json_schema(), "out of date: run `python -m schemas.reference`"


def test_a_document_without_a_parts_table_is_refused():
    with pytest.raises(ValueError, match="`Retention`"):
        reference.document(TEXT.replace("(`Retention`)", ""))


@pytest.mark.parametrize("part", reference.parts(), ids=lambda part: part.__name__)
def test_every_field_is_described_once_and_nothing_else_is(part):
    assert set(reference.descriptions(part)) == set(part.model_fields)


SPECS = ["schemas/demo.yaml", "examples/kuairand/spec.yaml"]


@pytest.mark.parametrize("path", SPECS)
def test_an_editor_finds_nothing_wrong_in_a_valid_spec(path):
    content = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(reference.json_schema()).validate(content)


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("training.learningrate=1", "training"),
        ("training.batch_size=0", "training.batch_size"),
        ("tasks.click.gate.min_auc=1.5", "tasks.click.gate.min_auc"),
        ("features.Topic={type: dense}", "features"),
        ("model={preset: huge}", "model.preset"),
        ("model={dropout: 0.1}", "model"),
        ("serving.score_scale=[1]", "serving.score_scale"),
    ],
)
def test_an_editor_finds_what_the_loader_refuses(override, where):
    content = yaml.safe_load((ROOT / "schemas/demo.yaml").read_text(encoding="utf-8"))
    path, _, value = override.partition("=")
    *parents, last = path.split(".")
    node = functools.reduce(dict.__getitem__, parents, content)
    node[last] = yaml.safe_load(value)
    with pytest.raises(SpecError):
        parse_spec(yaml.safe_dump(content), "my.yaml")
    validator = jsonschema.Draft202012Validator(reference.json_schema())
    (error,) = validator.iter_errors(content)
    assert where.startswith(".".join(map(str, error.absolute_path)))


def test_table_lists_the_presets():
    rows = table("(`Architecture`)")
    for name, preset in training.PRESETS.items():
        cells = [yaml.safe_load(cell.strip("`")) for cell in rows[name]]
        shared, tower, *others = cells
        assert (tuple(shared), tuple(tower)) == (preset.shared, preset.tower)
        assert others == [preset.curves, preset.wide, preset.interactions, preset.cross_layers]


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
