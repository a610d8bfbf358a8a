import importlib
import sys

import pytest

from pipeline.imports import without


def test_a_module_is_missing_within_and_is_imported_afterwards(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with without("colorsys"), pytest.raises(ImportError):
        importlib.import_module("colorsys")
    module = importlib.import_module("colorsys")
    with without("colorsys"):
        assert importlib.import_module("colorsys") is module
    assert sys.modules["colorsys"] is module
