"""Whether a model's answers are fit to serve; plain arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_AGREEMENT = 1e-3
"""Relative and absolute difference that two request forms may show (float32 kernels)."""


def reasons(
    predictions: Mapping[str, Mapping[str, Sequence[float]]], tasks: Sequence[str]
) -> list[str]:
    """Says why a model must not be served.

    Args:
        predictions: for each signature, each output's value for each event, in one order.
        tasks: the outputs that every signature must have beside `score`.

    Returns:
        One line per fault; empty when the model may be served.
    """
    faults: list[str] = []
    for signature, outputs in predictions.items():
        for name in (*tasks, "score"):
            if name not in outputs:
                faults.append(f"{signature}: no output {name!r}")
                continue
            values = np.asarray(outputs[name], np.float64)
            bad = int(np.count_nonzero(~np.isfinite(values)))
            if bad:
                faults.append(
                    f"{signature}: {name} is NaN or infinite for {bad} of {values.size} events"
                )
            elif values.size > 1 and np.ptp(values) == 0.0:
                faults.append(
                    f"{signature}: {name} is {values[0]:.6g} for all of {values.size} events"
                )
    if faults:
        return faults
    (first, expected), *others = predictions.items()
    for signature, outputs in others:
        for name in (*tasks, "score"):
            if not np.allclose(outputs[name], expected[name], rtol=_AGREEMENT, atol=_AGREEMENT):
                faults.append(f"{name}: {signature} and {first} answer differently")
    return faults
