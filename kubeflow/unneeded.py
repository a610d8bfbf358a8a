"""Prints the installed packages that the named ones do not need, one a line."""

import sys
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def unneeded(names: list[str]) -> list[str]:
    """Returns what no package in `names` requires, directly or indirectly, without extras."""
    installed = {
        canonicalize_name(item.metadata["Name"]): item for item in metadata.distributions()
    }
    needed: set[tuple[str, frozenset[str]]] = set()
    pending = [(canonicalize_name(name), frozenset[str]()) for name in names]
    while pending:
        name, extras = item = pending.pop()
        if item in needed or name not in installed:
            continue
        needed.add(item)
        for text in installed[name].requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                pending.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return sorted(set(installed) - {name for name, _ in needed})


if __name__ == "__main__":
    print("\n".join(unneeded(sys.argv[1:])))
