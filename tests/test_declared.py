"""What is imported is declared: another package may stop bringing it."""

import ast
import collections
import functools
import pathlib
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
OURS = {"schemas", "components", "trainer_module", "pipeline"}


def imported(folder):
    """Modules that the Python files below a folder import, by the first file that does."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                found.setdefault(name, path.relative_to(ROOT))
    return found


@functools.cache
def owners():
    """Distributions by the folders and modules that they install, two levels deep."""
    found = collections.defaultdict(set)
    for distribution in metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        for file in distribution.files or ():
            parts = str(file).removesuffix(".py").split("/")
            for depth in (1, 2):
                found[".".join(parts[:depth])].add(name)
    return found


def distributions(module):
    """Distributions that have a module; of a namespace (`google`), those that have the part."""
    top = module.partition(".")[0]
    part = ".".join(module.split(".")[:2])
    return owners().get(part, set()) if len(owners()[top]) > 1 else owners()[top]


@pytest.mark.parametrize("folder", sorted(OURS))
def test_every_import_is_of_a_declared_package(folder):
    declared = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, metadata.requires("steadyrank"))
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    }
    undeclared = {}
    for module, path in imported(folder).items():
        if module.partition(".")[0] in OURS | sys.stdlib_module_names:
            continue
        if not distributions(module) & declared:
            undeclared[module] = (str(path), sorted(distributions(module)))
    assert undeclared == {}
