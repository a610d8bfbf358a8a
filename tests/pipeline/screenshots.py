"""Makes the pictures of the pages, of a planted month: python tests/pipeline/screenshots.py"""

import base64
import dataclasses
import pathlib
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "img"
TESTS = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), *(str(TESTS / name) for name in ("", "components", "pipeline"))]

# A day that was blocked, and its training, in place of the newest.
OPEN = """
document.querySelector('#day-2026-01-29').open = true;
document.querySelector('.training').open = false;
document.querySelector('#training-2026-01-29').open = true;
"""
PICTURES = {
    "report-light.png": (1180, 1560, "light", "days", 400),
    "report-tasks-dark.png": (1180, 1180, "dark", "tasks", 60),
    "report-stability.png": (1180, 1150, "light", "stability", 60),
    "report-phone.png": (390, 1300, "dark", "days", 900),
}


def main():
    """Plants a month, writes its page, and takes the pictures."""
    import browser
    from planted_report import PlantedReport

    from pipeline.html_report.write import write

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser.chromium() as page:
        path = write(PlantedReport(folder).days(30).space)
        for name, (width, height, scheme, section, above) in PICTURES.items():
            page.open(path, width=width, height=height, scheme=scheme)
            page.evaluate(OPEN)
            top = f"document.querySelector('#{section}').offsetTop - {above}"
            page.evaluate(f"scrollTo({{top: {top}, behavior: 'instant'}})")
            seen = "[...document.querySelectorAll('.chart')].filter(c => c.checkVisibility() && "
            seen += "c.getBoundingClientRect().top < innerHeight && "
            seen += "c.getBoundingClientRect().bottom > 0).every(c => c.dataset.drawn)"
            page.wait_for(seen)
            take(page, name)
        verdict = pathlib.Path(folder, "verdict.html")
        verdict.write_text(planted_page(), "utf-8")
        page.open(verdict, width=1180, height=1130, scheme="light")
        take(page, "verdict.png")


def planted_page():
    """A day that one bound blocks."""
    import planted_verdict as planted

    from components.evaluator.page import render

    plan = dataclasses.replace(planted.PLAN, start_reason="warm start from version 3")
    reason = "click: auc of device=phone is 0.6391, must be at least 0.65 (slice device=phone)"
    judged = planted.judged(reason, failed=[("device=phone", "click")])
    return render(
        plan, planted.STABILITY, {**judged, "notes": []}, training="90 steps", events=planted.EVENTS
    )


def take(page, name):
    """Writes what is seen."""
    shot = page.send("Page.captureScreenshot", format="png")["data"]
    (FOLDER / name).write_bytes(base64.b64decode(shot))


if __name__ == "__main__":
    main()
