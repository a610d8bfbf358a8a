import pathlib
import re
import shlex

import pytest
from typer.main import get_command

from pipeline.cli import app

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("schemas", "trainer_module", "components", "pipeline")
DOCUMENTS = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]

STANDS_FOR = {"DAY": "2026-01-03", "FIRST": "2026-01-03", "LAST": "2026-01-04"}


def shown_commands():
    """Calls of `steadyrank` in the shell blocks of the documents, but those that leave out some."""
    for path in DOCUMENTS:
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for call in re.findall(r"(?:^|; )(?:\.venv/bin/)?steadyrank ([^;>|]+)", line):
                    words = shlex.split(call, comments=True)
                    if not {"...", "--help"} & set(words) and words[0] != "kubeflow":
                        yield tuple(STANDS_FOR.get(word, word) for word in words)


@pytest.mark.parametrize("words", sorted(set(shown_commands())), ids=" ".join)
def test_a_command_that_is_shown_can_be_called(words):
    words = [re.sub(r"^\$\(date .*\)$", "2026-01-03", word) for word in words]
    command = get_command(app).commands[words[0]]
    command.make_context(words[0], list(words[1:]))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    missing = [t for t in targets if "://" not in t and not (path.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_of_the_repository_that_are_named_exist(path):
    folders = "|".join((*PACKAGES, "benchmarks", "examples", "experiments", "kubeflow", "tests"))
    text = path.read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{folders})/[\w/.-]+\.\w+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


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
