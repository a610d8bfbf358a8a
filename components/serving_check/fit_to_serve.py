"""Whether a model's answers are fit to serve; plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from schemas import formula
from schemas.spec import Serving
from schemas.tasks import BinaryTask, Task
from trainer_module import signatures

Outputs = Mapping[str, Sequence[float]]
"""Each output's value for each event, by the output's name."""

_SERVED = (signatures.SERVE_EXAMPLES, signatures.SERVE_FEATURES)
_AGREEMENT = 1e-3
"""Difference that two answers to one event may show (float32 kernels), as a share of the answer
or of the median answer's size, whichever is larger."""
_OF_HALF = 2e-2
"""The same for layers in float16 or bfloat16, whose kernels add up in another order for a batch of
another size: a few of bfloat16's last bits."""
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "minimum": np.minimum,
    "maximum": np.maximum,
}


def reasons(
    predictions: Mapping[str, Outputs],
    tasks: Mapping[str, Task],
    score: str,
    events: int,
    odd: Sequence[str] = (),
) -> list[str]:
    """Says why a model must not be served.

    What is served must be finite, must not be the same for all events, and must be what the
    gate judges: both request forms must answer as the evaluated signature does, in the units
    of the labels, and the score must be its formula of the served predictions. The last two
    are computed anew here, in float64.

    Args:
        predictions: the answers of the served and the evaluated signatures of
            `trainer_module.signatures`, to the same events.
        tasks: the tasks by the name of their output.
        score: formula of the score.
        events: how many were asked.
        odd: what each is, if they are not events of a day; their answers may all be the same.

    Returns:
        One line per fault; empty when the model may be served.
    """
    served = {name: predictions[name] for name in _SERVED if name in predictions}
    faults = [f"no signature {name!r}" for name in _SERVED if name not in predictions]
    for signature, outputs in served.items():
        for name in (*tasks, signatures.SCORE):
            faults += _unfit(
                f"{signature}: {name}", outputs.get(name), tasks.get(name), events, odd
            )
    evaluated = predictions.get(signatures.EVALUATE)
    if evaluated is None:
        faults.append(f"no signature {signatures.EVALUATE!r}")
    elif not faults:
        for name in tasks:
            if len(evaluated.get(name, ())) != events:
                faults.append(f"{signatures.EVALUATE}: {name} has no answer for each event")
    if faults or evaluated is None:
        return faults
    judged = {
        name: _in_units_of_the_label(np.asarray(evaluated[name], np.float64), task)
        for name, task in tasks.items()
    }
    combined = formula.parse(score, names=tasks)
    for signature, outputs in served.items():
        values = {name: np.asarray(outputs[name], np.float64) for name in tasks}
        expected = {**judged, signatures.SCORE: formula.evaluate(combined, values, _FUNCTIONS)}
        for name, right in expected.items():
            by = "its formula" if name == signatures.SCORE else "the evaluated signature"
            faults += _differs(f"{signature}: {name}", outputs[name], right, by, odd)
    return faults


def unsteady(
    predictions: Mapping[str, Outputs],
    again: Mapping[str, Sequence[tuple[Sequence[int], Outputs]]],
    tasks: Iterable[str],
    *,
    half_precision: bool = False,
) -> list[str]:
    """Says which events are answered otherwise when they are asked later, in another batch.

    Args:
        predictions: the answers of the served signatures, all events at once.
        again: by signature the later batches: the place of each event among those, and the
            answers.
        tasks: names of the outputs, the score apart.
        half_precision: whether layers compute in less than float32.

    Returns:
        One line for each output and batch.
    """
    faults = []
    for signature, batches in again.items():
        for name in (*tasks, signatures.SCORE):
            alike = np.asarray(predictions[signature][name], np.float64)
            for places, outputs in batches:
                faults += _differs(
                    f"{signature}: {name} in a request for {len(places)} events",
                    outputs[name],
                    alike[list(places)],
                    f"an earlier one for {alike.size}",
                    agreement=_OF_HALF if half_precision else _AGREEMENT,
                )
    return faults


def too_slow(latency: Mapping[str, Mapping[str, float]], serving: Serving) -> list[str]:
    """Says which served signatures answer more slowly than `serving.max_latency_ms`.

    The median counts: a single answer may have waited for other work on the machine.

    Args:
        latency: milliseconds, `p50` of several, by `<signature>/batch <size>`.
        serving: the bound, and the batch that it is of.
    """
    limit, batch = serving.max_latency_ms, serving.latency_batch
    if limit is None:
        return []
    medians = {name: latency[f"{name}/batch {batch}"]["p50"] for name in _SERVED}
    return [
        f"{name}: takes {median:g} ms for {batch} events, more than serving.max_latency_ms: "
        f"{limit:g}"
        for name, median in medians.items()
        if median > limit
    ]


def _unfit(
    what: str,
    values: Sequence[float] | None,
    task: Task | None,
    events: int,
    odd: Sequence[str],
) -> list[str]:
    if values is None:
        return [f"{what} is not answered"]
    answers = np.asarray(values, np.float64)
    if answers.size != events:
        return [f"{what} has {answers.size} values for {events} events"]
    bad = ~np.isfinite(answers)
    if bad.any():
        return [f"{what} is NaN or infinite for {_count(bad, odd)}"]
    if isinstance(task, BinaryTask) and (answers.min() < 0.0 or answers.max() > 1.0):
        outside = (answers < 0.0) | (answers > 1.0)
        return [
            f"{what} is not a probability: from {answers.min():.6g} to {answers.max():.6g}, for "
            f"{_count(outside, odd)}"
        ]
    if not odd and events > 1 and np.ptp(answers) == 0.0:
        return [f"{what} is {answers[0]:.6g} for all of {events} events"]
    return []


def _in_units_of_the_label(evaluated: np.ndarray, task: Task) -> np.ndarray:
    """What is to be served, where this is evaluated, in the space of the loss."""
    if isinstance(task, BinaryTask) or task.transform == "none":
        return evaluated
    return np.maximum(np.expm1(evaluated), 0.0)


def _count(faulty: np.ndarray, odd: Sequence[str]) -> str:
    """How many events are faulty; of odd ones, which is the first."""
    number = f"{np.count_nonzero(faulty)} of {faulty.size}"
    return (
        f"{number} odd requests, first: {odd[int(np.argmax(faulty))]}"
        if odd
        else f"{number} events"
    )


def _differs(
    what: str,
    answers: Sequence[float],
    right: np.ndarray,
    source: str,
    odd: Sequence[str] = (),
    agreement: float = _AGREEMENT,
) -> list[str]:
    values = np.asarray(answers, np.float64)
    size = np.maximum(np.abs(right), np.median(np.abs(right)))
    # Also where the right value is not finite.
    wrong = ~(np.abs(values - right) <= agreement * size)
    if not wrong.any():
        return []
    first = int(np.argmax(wrong))
    return [
        f"{what} is {values[first]:.6g} where {source} gives {right[first]:.6g} "
        f"({_count(wrong, odd)})"
    ]
