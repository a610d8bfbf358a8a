import pathlib
import re
import runpy
import shlex

import pytest
import tensorflow as tf
import yaml
from typer.testing import CliRunner

from components import serving_lock
from examples.films import export
from pipeline.cli import app

TEXT = (pathlib.Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")


def commands(start: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, flags=re.S)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(start)]
    return [shlex.split(line)[len(shlex.split(start)) :] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the tutorial's first steps were followed."""
    folder = tmp_path_factory.mktemp("tutorial")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (arguments,) = commands("python -m examples.films.export")
        export.main(arguments)
        script = folder / "days.py"
        script.write_text(re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)[0])
        runpy.run_path(str(script))
        yield folder


@pytest.fixture(scope="module")
def said(folder):
    (arguments,) = commands("steadyrank init")
    result = CliRunner().invoke(app, ["init", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_quoted_export_is_real(folder):
    with open(folder / "export" / "impressions.csv", encoding="utf-8") as file:
        head = file.readline() + file.readline()
    assert head in TEXT


def test_quoted_guesses_are_real(said):
    (quoted,) = re.findall(r"```\n(isClicked: label .*?)```", TEXT, flags=re.S)
    lines = [line for line in quoted.splitlines() if line != "..."]
    assert len(lines) == 5
    assert set(lines) <= set(said.splitlines())


def test_drafted_spec_fits_the_logs(folder, said):
    (arguments,) = commands("steadyrank check")
    result = CliRunner().invoke(app, ["check", *arguments])
    assert result.exit_code == 0, result.output
    assert "error" not in result.output


def test_requests_send_the_features_of_the_spec(folder, said):
    features = yaml.safe_load((folder / "ranker.yaml").read_text())["features"]
    logged = {name for name, feature in features.items() if feature["type"] != "history"}
    (request,) = re.findall(r"--data '\n(.*?)'\n", TEXT, flags=re.S)
    for instance in yaml.safe_load(request)["instances"]:
        assert set(instance) == logged
    (call,) = re.findall(r"answer = ask\((.*?)\n\)", TEXT, flags=re.S)
    assert set(re.findall(r"^ +(\w+)=", call, flags=re.M)) == logged


def test_days_that_are_run_have_logs(folder):
    ((first, last, *_),) = commands("steadyrank backfill")
    days = sorted(path.name for path in (folder / "logs").iterdir())
    assert days[-1] == last
    assert first in days[7:]


def test_model_is_asked_as_the_tutorial_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = (b for b in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S) if "newest" in b)
    names = re.findall(r"^    (\w+)=tf\.constant", block, flags=re.M)
    for version in (9, 10):
        module = tf.Module()
        module.ask = tf.function(
            lambda film_id, version=version, **_: {"score": version / tf.cast(film_id, tf.float32)}
        )
        some = {name: tf.TensorSpec(None, dtype=dtype_of(block, name), name=name) for name in names}
        concrete = module.ask.get_concrete_function(**some)
        path = f"work/serving/{version}"
        tf.saved_model.save(module, path, signatures={"raw_features": concrete})
    with serving_lock.locked("work/serving"):
        exec(compile(block, "tutorial.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["12", "0.8333333", "79", "0.12658228"]


def dtype_of(block: str, name: str) -> tf.DType:
    """The type of the values that the tutorial gives for a field."""
    (values,) = re.findall(rf"^    {name}=(tf\.constant\(.*\)),$", block, flags=re.M)
    return eval(values, {"tf": tf}).dtype
