"""Makes the pictures of docs/report.md, of a planted month: python tests/pipeline/screenshots.py"""

import base64
import os
import pathlib
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parents[2] / "docs" / "img"
sys.path[:0] = [str(FOLDER.parents[1]), os.path.dirname(__file__)]

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
            shot = page.send("Page.captureScreenshot", format="png")["data"]
            (FOLDER / name).write_bytes(base64.b64decode(shot))


if __name__ == "__main__":
    main()
