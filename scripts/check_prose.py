"""Checks the style of the documents: lines of at most 100 characters, and no stilted phrases.

Tables, code and lines that are one long link may be longer. Exit code 1 if there is a fault.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTH = 100
PLAIN = {
    r"\bis none of\b": "is not one of",
    r"\bthat (was|is) to be had\b": "that exists",
    r"\bbe it\b": "whether",
    r"\bwhereof\b|\bthereof\b|\bwherein\b|\btherein\b|\bhereby\b": "of which, in which",
    r"\bin order to\b": "to",
    r"\butili[sz]e": "use",
    r"\bprior to\b": "before",
}
"""What to write for a phrase (a regular expression)."""


def faults(path: Path) -> Iterator[str]:
    """What is wrong in a document, as `file:line: what`."""
    name = path.relative_to(ROOT).as_posix()
    code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.lstrip().startswith("```"):
            code = not code
        if code or line.startswith("    "):
            continue
        for phrase, better in PLAIN.items():
            if found := re.search(phrase, line, re.I):
                yield f"{name}:{number}: write {better!r} for {found[0]!r}"
        if len(line) > WIDTH and not re.match(r"\||\W*\S+$", line):
            yield f"{name}:{number}: {len(line)} characters, at most {WIDTH}"


def main() -> int:
    """Prints the faults of all documents."""
    documents = (
        path
        for path in sorted(ROOT.rglob("*.md"))
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        and path.relative_to(ROOT).parts[0] not in ("build", "work")
    )
    found = [fault for path in documents for fault in faults(path)]
    print("\n".join(found) or "documents: in style")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
