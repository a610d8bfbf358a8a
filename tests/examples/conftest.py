"""Puts the repository's root on the path: the examples are in no installed package."""

import pathlib
import sys

_ROOT = str(pathlib.Path(__file__).parents[2])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
