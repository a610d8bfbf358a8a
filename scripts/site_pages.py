"""Hook of mkdocs: pages outside of `docs/`, files that pages link to, the command line's page.

Links in the repository are relative to the file that they are in. The site has `docs/` at its
root, `README.md` as its first page, and every other file at its path in the repository.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "experiments/README.md",
    "examples/kuairand/README.md",
]
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages outside of `docs/`, and every other file that a page links to."""
    for path in OUTSIDE:
        _add(files, config, path)
    page = File.generated(config, "reference/command-line.md", content=_command_line())
    files.append(page)
    for file in list(files.documentation_pages()):
        source = _in_repository(file.src_uri)
        for target in _targets(source, file.content_string):
            if files.get_file_from_path(_in_site(target)) is None and (ROOT / target).is_file():
                _add(files, config, target)
    _list_the_rest(config.nav, [file.src_uri for file in files.documentation_pages()])
    return files


def _list_the_rest(nav: list, pages: list[str]) -> None:
    """Puts pages that `mkdocs.yml` does not list at the end of a section: none is hidden."""
    sections = {
        name: pages for entry in nav if isinstance(entry, dict) for name, pages in entry.items()
    }
    listed = set(re.findall(r"[\w./-]+\.md", str(nav)))
    for page in sorted(set(pages) - listed):
        sections["Results" if page.startswith("results/") else "Explanation"].append(page)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between files of the site."""
    here = _in_repository(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[1]))
        start = posixpath.dirname(page.file.src_uri) or "."
        return posixpath.relpath(_in_site(target), start)

    return _LINK.sub(moved, markdown)


def _add(files: Files, config: MkDocsConfig, path: str) -> None:
    files.append(File.generated(config, _in_site(path), abs_src_path=str(ROOT / path)))


def _targets(source: str, markdown: str) -> Iterator[str]:
    for match in _LINK.finditer(markdown):
        yield posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))


def _in_site(path: str) -> str:
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _in_repository(uri: str) -> str:
    if uri == "index.md":
        return "README.md"
    return uri if uri in OUTSIDE else f"docs/{uri}"


def _command_line() -> str:
    """The help of every command, as a page."""
    os.environ["TERM"] = "dumb"
    import typer
    from typer.cli import get_docs_for_click

    from pipeline.cli import app

    command = typer.main.get_command(app)
    return get_docs_for_click(
        obj=command,
        ctx=typer.Context(command, info_name="steadyrank"),
        name="steadyrank",
        title="Command line",
    )
