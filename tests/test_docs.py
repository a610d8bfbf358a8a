import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("schemas", "trainer_module", "components", "pipeline")
DOCUMENTS = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing


def test_the_architecture_names_every_folder_of_the_code():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    code = {path.parent.relative_to(ROOT) for path in ROOT.glob("*/**/__init__.py")}
    code |= {pathlib.PurePath(name) for name in ("docs", "kubeflow", "locks", "scripts", "tests")}
    named = {
        folder
        for folder in code
        if folder.parts[0] in (*PACKAGES, "benchmarks", "experiments") or len(folder.parts) == 1
        if folder.parts[0] not in ("build", ".venv")
    }
    assert [f"{f}/" for f in sorted(named) if f"`{f}/`" not in text] == []
