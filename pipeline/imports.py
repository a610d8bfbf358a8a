"""Imports of libraries without a part that is optional, slow and not used here."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Has imports within it take `module` for one that is not installed, unless it is there yet."""
    known = module in sys.modules
    sys.modules.setdefault(module, None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        if not known:
            del sys.modules[module]
