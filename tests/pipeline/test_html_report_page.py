"""The page in a real browser: opened, read, clicked through and used by keyboard."""

import itertools
import subprocess
import sys

import browser
import planted_verdict
import pytest
from planted_report import PlantedReport

from components.evaluator.page import render
from pipeline import lineage
from pipeline.html_report.write import write

pytestmark = pytest.mark.skipif(
    browser.PROGRAM is None, reason="no Chromium here (Debian: apt-get install chromium)"
)

# Contrast by WCAG 2.2 of each text with what is behind it.
CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => c.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const apart = node.closest("[aria-hidden], svg, script, style");
    if (!own || apart || !node.checkVisibility()) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.className || node.tagName}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(poor)];
})()
"""
DRAW_ALL = """
(async () => {
  for (const node of document.querySelectorAll("details")) node.open = true;
  for (const place of document.querySelectorAll(".chart")) {
    place.scrollIntoView({behavior: "instant"});
    while (!place.dataset.drawn) await new Promise((done) => setTimeout(done, 20));
  }
  return document.querySelectorAll(".chart").length;
})()
"""


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    """A workspace of thirty days with its page."""
    space = PlantedReport(tmp_path_factory.mktemp("month")).days(30).space
    write(space)
    return space


@pytest.fixture(scope="module")
def page():
    with browser.chromium() as page:
        yield page
        assert page.complaints == []


def shown(page, selector):
    return page.evaluate(f"document.querySelector({selector!r}).innerText.trim()")


def test_what_is_shown_is_what_ml_metadata_knows(page, month):
    page.open(month.report)
    runs = lineage.list_runs(lineage.open_store(month.metadata_path))
    pushed = [run for run in runs if run.outcome == "pushed"]
    assert shown(page, "#served-version") == str(pushed[-1].version)
    for run in runs:
        page.evaluate(f"document.querySelector('a.day[data-date=\"{run.run_date}\"]').click()")
        day = f"#day-{run.run_date}"
        page.wait_for(f"document.querySelector({day!r}).open")
        assert shown(page, f"{day} .badge").endswith(run.outcome)
        text = " ".join(shown(page, day).split())
        for reason in run.reasons:
            assert " ".join(reason.split()) in text
        for task, values in run.metrics.get("candidate", {}).items():
            if "auc" in values:
                assert f"{task} AUC {values['auc']:.4f}" in text
        assert page.evaluate("document.activeElement.parentElement.id") == day[1:]


def test_every_chart_is_drawn_with_a_point_for_each_day(page, month):
    page.open(month.report)
    charts = page.evaluate(DRAW_ALL)
    drawn = page.evaluate("document.querySelectorAll('.chart svg').length")
    assert charts == drawn > 10
    widths = page.evaluate("[...document.querySelectorAll('.chart svg')].map(s => s.clientWidth)")
    assert min(widths) > 200
    runs = lineage.list_runs(lineage.open_store(month.metadata_path))
    judged = sum(bool(run.metrics) for run in runs)
    points = "document.querySelector('#tasks .chart').querySelectorAll('.mark-symbol path').length"
    assert page.evaluate(points) == judged


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_its_width_and_can_be_read(page, month, width, scheme):
    page.open(month.report, width=width, height=800, scheme=scheme)
    page.evaluate(DRAW_ALL)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_a_verdict_fits_a_phone_and_can_be_read(page, tmp_path, scheme):
    path = tmp_path / "page.html"
    path.write_text(
        render(
            planted_verdict.PLAN,
            planted_verdict.STABILITY,
            planted_verdict.judged("a" * 200, failed=[("all events", "click")]),
            events=planted_verdict.EVENTS,
        ),
        "utf-8",
    )
    page.open(path, width=360, height=800, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(CONTRAST) == []
    assert "blocked" in shown(page, ".badge")
    assert shown(page, "#tasks .panel").startswith("click fails a bound")


def test_calendar_is_used_by_keyboard(page, month):
    page.open(month.report)
    focused = "document.activeElement.dataset.date ?? document.activeElement.innerText"
    page.press("Tab", 9)
    assert page.evaluate(focused) == "Skip to the content"
    stops = "[...document.querySelectorAll('#calendar a.day')].filter(a => a.tabIndex === 0).length"
    assert page.evaluate(stops) == 1
    page.evaluate("document.querySelector('#calendar a.day[tabindex=\"0\"]').focus()")
    assert page.evaluate(focused) == "2026-02-01"
    page.press("ArrowLeft", 37)
    assert page.evaluate(focused) == "2026-01-31"
    page.press("ArrowUp", 38)
    assert page.evaluate(focused) == "2026-01-24"
    page.press("Enter", 13, "\r")
    page.wait_for("document.querySelector('#day-2026-01-24').open")


def test_screen_readers_are_told_what_is_where(page, month):
    page.open(month.report)
    page.evaluate(DRAW_ALL)
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    named = [
        (node.get("role", {}).get("value"), node.get("name", {}).get("value"))
        for node in nodes
        if not node.get("ignored")
    ]
    assert ("main", "") in named
    assert ("navigation", "Sections") in named
    assert ("link", "3 January 2026: pushed, held") in named
    assert ("link", "5 January 2026: blocked") in named
    assert any(role == "graphics-document" and "click by day" in name for role, name in named)
    links = [name for role, name in named if role == "link"]
    assert all(links)
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    unnamed = "[...document.querySelectorAll('.scroll')].filter(s => !s.ariaLabel).length"
    assert page.evaluate(unnamed) == 0


@pytest.mark.slow
def test_a_year_opens_within_two_seconds(page, tmp_path):
    space = PlantedReport(tmp_path).days(365).space
    write(space)
    # The page's own processor time, however busy the machine is.
    page.send("Performance.enable", timeDomain="threadTicks")
    before = _processor_seconds(page)
    page.open(space.report)
    page.wait_for("document.querySelectorAll('a.day').length > 300")
    assert _processor_seconds(page) - before < 2.0


def _processor_seconds(page):
    metrics = page.send("Performance.getMetrics")["metrics"]
    return next(m["value"] for m in metrics if m["name"] == "TaskDuration")


def test_charts_need_no_grammars_of_addresses():
    code = (
        "import sys, pipeline.html_report.page; "
        "print([n for n in ('lark', 'rfc3987_syntax') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
