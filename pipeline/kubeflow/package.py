"""Packages as files."""

from __future__ import annotations

import os
from typing import Any

import yaml

from schemas.errors import RankerError

Document = dict[str, Any]


def write_package(documents: list[Document], path: str) -> None:
    """Writes a package as YAML; the back end takes no JSON with a platform spec.

    Raises:
        RankerError: the name does not end in .yaml.
    """
    if not path.endswith((".yaml", ".yml")):
        raise RankerError(f"{path}: a package's name ends in .yaml")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump_all(documents, file, width=100)


def load_package(path: str) -> list[Document]:
    """Reads a package's documents.

    Raises:
        RankerError: the file cannot be read, or is no YAML.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return list(yaml.safe_load_all(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RankerError(f"{path}: cannot be read as a package: {error}") from error
