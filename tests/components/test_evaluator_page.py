"""The page of a day's verdict: what it shows is what was found; how it looks: tests/pipeline."""

import base64
import re

import pytest
from executions import artifact
from markupsafe import escape
from planted_verdict import EVENTS, HOSTILE, PLAN, REFUSED, STABILITY, judged
from stability_reports import DIVERGED
from tfx.types import standard_artifacts

from components import artifacts
from components.channels import Channels
from components.evaluator.page import PAGE_FILE, render, write_page
from trainer_module.stability.outcome import Stability

BLOCKED = ("click: auc is 0.5, must be at least 0.6", f"device: {HOSTILE}")
SAID = ["click: auc 0.7391 (0.7288 to 0.7494), change -0.0075"]


def words(page):
    """The text that is shown, each run of spaces as one."""
    body = re.sub(r"<[^>]+>", " ", page.partition("<body>")[2])
    return " ".join(body.split())


def panel(page, task):
    (found,) = re.findall(rf'<div class="panel">\s*<h3>{task}\b(.*?)</dl>', page, re.S)
    return words(f"<body>{found}")


def test_each_task_shows_the_values_of_the_verdict_and_its_bounds():
    page = render(PLAN, STABILITY, judged(), said=SAID)
    click, rate = panel(page, "click"), panel(page, "rate")
    for shown in (
        "0.7391 AUC, 0.7288 to 0.7494 with 95 % confidence",
        # That of the served model less the largest drop, which is above min_auc.
        "Gate 0.7266",
        "Served model 0.7466, gain \N{MINUS SIGN}0.0075",
        "Trivial 0.6974, lift +0.0417",
        "Calibration 1.0312",
        "Events 20,000",
        "auc at least 0.6; auc change at least -0.02",
        "calibration at least 0.8 and at most 1.25",
    ):
        assert shown in click
    for shown in (
        "0.8123 RMSE",
        # An R2 of 0.15, which is the served model's less the largest drop.
        "Gate 0.8707",
        # A lower RMSE is better.
        "Served model 0.8011, gain \N{MINUS SIGN}0.0112",
        "Trivial 0.9444, lift +0.1321",
        "Calibration 0.9821",
        "Events 7,123",
        "rmse at most 1.5",
    ):
        assert shown in rate
    assert "confidence" not in rate
    assert SAID[0] in words(page)
    assert "rate: 3 of 10 events with its label" in words(page)


def test_page_says_of_which_day_model_training_and_events_it_is():
    text = words(render(PLAN, STABILITY, judged(), training="90 steps of 64", events=EVENTS))
    for shown in (
        "planted 4 January 2026",
        "passed The Pusher may push it.",
        "recovered 2 attempts",
        "recovered: attempt 2 from step 5 was healthy after 90 steps",
        "diverged \N{EN DASH} full divergence from step 10 to 40",
        "healthy learning_rate 0.05 none",
        "compared with the served version 3",
        "Training 90 steps of 64",
        "61,057 read = 40,000 trained + 20,000 evaluated + 1,000 unused + 54 duplicates",
    ):
        assert shown in text
    assert "blocked" not in text


def test_blocked_day_says_why_and_marks_what_fails():
    failed = (("all events", "click"), ("device=phone", "click"))
    page = render(PLAN, STABILITY, judged(*BLOCKED, failed=failed))
    text = words(page)
    assert "blocked Version 3 keeps serving." in text
    assert f"Why it is blocked {BLOCKED[0]}" in text
    assert panel(page, "click").startswith("fails a bound")
    assert "fails" not in panel(page, "rate")
    # Behind by 0.1, and the served model as much.
    slices = "device=phone click fails its bound AUC 0.6391 0.7391 0.1000 0.6466 321"
    assert slices in text


def test_model_that_was_not_evaluated_has_reasons_and_its_training():
    text = words(render(PLAN, Stability.of([DIVERGED]), REFUSED))
    assert "blocked Version 3 keeps serving." in text
    assert "training diverged after 40 steps" in text
    assert "The model was not evaluated." in text
    assert "1 attempt Why" in text
    assert "Slices" not in text


def test_text_of_logs_and_errors_is_escaped_and_nothing_is_loaded():
    verdict = judged(*BLOCKED, slice_name=f"device={HOSTILE}")
    page = render(PLAN, STABILITY, verdict, remarks=[HOSTILE])
    assert HOSTILE not in page
    # Start, reason, slice, the remark of ingestion and the note.
    assert page.count(str(escape(HOSTILE))) == 5
    assert "<script" not in page
    assert not re.findall(r"https?:|(?:src|href)=\"(?!data:)", page)


@pytest.mark.parametrize("has_folder", [True, False])
def test_page_is_in_its_folder_or_is_the_object_at_the_uri(tmp_path, has_folder):
    if has_folder:
        (tmp_path / "page").mkdir()
    (tmp_path / "stability").mkdir()
    (tmp_path / "stability" / "loss_and_auc.png").write_bytes(b"a picture")
    examples = artifact(standard_artifacts.Examples, tmp_path / "examples", notes="a gap")
    # As Kubeflow hands whole numbers over.
    examples[0].set_float_custom_property("events", 20.0)
    examples[0].set_float_custom_property("eval_events", 8.0)
    stability = artifact(artifacts.TrainingStability, tmp_path / "stability", training="9 steps")
    write_page(
        Channels({"examples": examples, "stability": stability}),
        Channels({"page": artifact(artifacts.Page, tmp_path / "page")}),
        PLAN,
        STABILITY,
        judged(),
        SAID,
    )
    path = tmp_path / "page" / PAGE_FILE if has_folder else tmp_path / "page"
    page = path.read_text("utf-8")
    text = words(page)
    assert "20 read = 0 trained + 8 evaluated + 12 unused" in text
    assert "a gap" in text
    assert "Training 9 steps" in text
    (picture,) = re.findall(r'src="data:image/png;base64,(.*?)"', page)
    assert base64.b64decode(picture) == b"a picture"
