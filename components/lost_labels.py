"""Whether a day has lost the labels of a binary task, by what the served model expects of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from schemas.spec import RankingSpec

_LOST = 4.0
"""A class that is this much rarer than the served model expects, whose calibration was within two
at its own gate, has not become rare by chance."""


def lost_classes(served: Mapping[str, float], spec: RankingSpec) -> Iterator[str]:
    """Says of which class a day has far fewer events than the served model expects.

    Nothing, if its mean prediction is absent or no number: then it does not say what it expects.

    Args:
        served: of a binary task, the metrics of the served model on the day.
        spec: the ranking spec.
    """
    if not math.isfinite(served.get("mean_prediction", math.nan)):
        return
    expected = class_counts(served, "mean_prediction")
    for what, count in class_counts(served, "mean_label").items():
        if count < spec.min_class_events and expected[what] >= _LOST * spec.min_class_events:
            yield f"{count:.0f} {what}, and the served model expects {expected[what]:.0f}"


def class_counts(values: Mapping[str, float], share: str) -> dict[str, float]:
    """Returns how many positives and negatives there are.

    Args:
        values: metrics of a binary task.
        share: the one that is the share of positives: `mean_label` or `mean_prediction`.
    """
    labelled = values.get("weighted_example_count", 0.0)
    positives = round(labelled * values.get(share, 0.0))
    return {"positives": positives, "negatives": labelled - positives}
