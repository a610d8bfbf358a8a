"""The watch over real models in a real serving folder: each event carries what they answer."""

import datetime
import json
import pathlib
import sys

import numpy as np
import pytest
import yaml
from apache_beam.io.filesystem import FileMetadata, MatchResult
from apache_beam.io.filesystems import FileSystems
from typer.testing import CliRunner

from components import serving_store
from pipeline import watch
from pipeline.cli import app
from schemas.errors import RankerError
from schemas.loading import parse_spec

sys.path.append(str(pathlib.Path(__file__).parents[1] / "components"))

SPEC = {
    "name": "planted",
    "features": {
        "served_logit": {"type": "dense"},
        "before_logit": {"type": "dense"},
    },
    "tasks": {
        "click": {
            "kind": "binary",
            "label": "clicked",
            "gate": {"min_auc": 0.7, "max_auc_drop": 0.02, "calibration": None},
        }
    },
    "model": {"preset": "tiny"},
    "serving": {"score": "click", "score_scale": None, "score_shift": None},
}
SERVED_DAY, LATER = datetime.date(2026, 1, 3), datetime.date(2026, 1, 5)
EVENTS = 2000


def version(number, model_uri="", tasks="t"):
    info = serving_store.ModelInfo(SERVED_DAY, SERVED_DAY, "m", tasks, model_uri or f"m{number}")
    return serving_store.ServedVersion(number, f"serving/{number}", info)


def test_version_before_is_the_newest_with_another_model():
    # Version 3 is a rollback to 1: what 2 had is what it replaced.
    versions = [version(1), version(2), version(3, "m1")]
    served, before = watch.choose_versions(versions)
    assert (served.version, before.version) == (3, 2)


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ([], "nothing is being served"),
        ([version(1)], "nothing to compare it with"),
        ([version(1), version(2, "m1")], "nothing to compare it with"),
        ([version(1, tasks="other"), version(2)], "different tasks"),
    ],
)
def test_versions_that_cannot_be_compared_are_refused(versions, message):
    with pytest.raises(RankerError, match=message):
        watch.choose_versions(versions)


def test_newest_day_after_the_served_versions_is_watched(tmp_path):
    for name in ("2026-01-02", "2026-01-04", "2026-01-05", "notes", "2026-13-01", "20260109"):
        (tmp_path / name).mkdir()
    assert watch.newest_day(str(tmp_path), SERVED_DAY) == LATER
    with pytest.raises(RankerError, match="no day after 2026-01-05"):
        watch.newest_day(str(tmp_path), LATER)


def test_newest_day_of_remote_logs_is_watched(monkeypatch):
    def match(patterns):
        assert patterns == ["gs://bucket/logs/*/*"]
        paths = [f"gs://bucket/logs/2026-01-0{day}/part.jsonl" for day in (4, 5)]
        return [MatchResult(patterns[0], [FileMetadata(path, 1) for path in paths])]

    monkeypatch.setattr(FileSystems, "match", match)
    assert watch.newest_day("gs://bucket/logs", SERVED_DAY) == LATER


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from planted_model import export_planted

    folder = tmp_path_factory.mktemp("models")
    spec = parse_spec(yaml.safe_dump(SPEC), "spec")
    for name in ("served", "before"):
        export_planted(spec, {"click": f"{name}_logit"}, folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal", "rate", "code", "text"),
    [
        (2.0, 0.4, 0, "version 2 against version 1: may stay"),
        (0.2, 0.4, 10, "version 2 against version 1: worse"),
        (2.0, 0.0, 0, "no task could be judged: 0 of 50 positives"),
    ],
    ids=["as good", "worse", "a day without labels"],
)
def test_worse_version_is_rolled_back_where_asked_for(tmp_path, models, signal, rate, code, text):
    work, logs = tmp_path / "work", tmp_path / "logs"
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    rng = np.random.default_rng(0)
    for date in (datetime.date(2026, 1, 4), LATER):
        clicked = rng.random(EVENTS) < rate
        noise = rng.normal(-0.5, 1.0, (2, EVENTS))
        (logs / str(date)).mkdir(parents=True)
        with open(logs / str(date) / "part.jsonl", "w") as file:
            for row in range(EVENTS):
                event = {
                    "event_id": f"{date}-{row}",
                    "clicked": int(clicked[row]),
                    "before_logit": 2.0 * clicked[row] + noise[0, row],
                    "served_logit": 1e30
                    if np.isnan(signal)
                    else signal * clicked[row] + noise[1, row],
                }
                file.write(json.dumps(event) + "\n")
    for number, name in ((1, "before"), (2, "served")):
        day = SERVED_DAY - datetime.timedelta(2 - number)
        info = serving_store.ModelInfo(day, day, "m", "t", name)
        before = number - 1 or None
        serving_store.push(str(models / name), str(work / "serving"), info, 5, served_before=before)
    left_by_a_killed_watch = work / ".watch" / "Split-eval"
    left_by_a_killed_watch.mkdir(parents=True)
    (left_by_a_killed_watch / "shard").touch()
    call = ["watch", "-l", str(logs), "-s", str(spec), "-w", str(work), "--rollback"]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == code, result.output
    assert text in result.output
    served = serving_store.served_version(str(work / "serving"))
    assert served.info.model_uri == ("served" if code == 0 else "before")
    assert not [path for path in work.iterdir() if path.name.startswith(".watch")]
