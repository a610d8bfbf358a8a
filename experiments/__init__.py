"""Experiments behind docs/results: users of the product, imported by nothing of it."""
