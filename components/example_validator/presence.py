"""Whether as many events have a value of a feature as where it is compared.

TFDV compares the values that are there. That there are none, or far fewer, passes its
comparators mostly in silence.
"""

from __future__ import annotations

import math

from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2

_KINDS = anomalies_pb2.AnomalyInfo


def presence(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, float]:
    """Returns which share of the events has a value of each feature that the data has."""
    (dataset,) = statistics.datasets
    shares = {}
    for feature in dataset.features:
        common = getattr(feature, feature.WhichOneof("stats")).common_stats
        shares[feature.path.step[0]] = common.num_non_missing / max(dataset.num_examples, 1)
    return shares


def note_lost_values(
    anomalies: anomalies_pb2.Anomalies,
    name: str,
    comparator: schema_pb2.FeatureComparator,
    here: float,
    there: float,
) -> None:
    """Adds what a comparator says of values that are missing.

    A missing value counts as one more value, apart from all others: the distance is that of
    the comparator, between having a value and having none, and its bound is the same.

    Args:
        anomalies: what was found already; added to.
        name: the feature.
        comparator: its drift or skew comparator; nothing is added where it has no bound.
        here: share of the events with a value.
        there: the same where they are compared.
    """
    if comparator.HasField("infinity_norm"):
        kind, bound = _KINDS.COMPARATOR_L_INFTY_HIGH, comparator.infinity_norm.threshold
        measure, distance = "L-infinity distance", abs(here - there)
    elif comparator.HasField("jensen_shannon_divergence"):
        kind = _KINDS.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH
        bound = comparator.jensen_shannon_divergence.threshold
        measure, distance = "Jensen-Shannon divergence", _jensen_shannon(here, there)
    else:
        return
    if bool(here) != bool(there):
        kind = (
            _KINDS.COMPARATOR_CONTROL_DATA_MISSING
            if here
            else _KINDS.COMPARATOR_TREATMENT_DATA_MISSING
        )
    elif distance <= bound:
        return
    info = anomalies.anomaly_info[name]
    if (here and there) or all(reason.type != kind for reason in info.reason):
        info.severity = _KINDS.ERROR
        info.reason.add(
            type=kind,
            short_description="Values are missing",
            description=(
                f"{here:.3g} of the events have a value here, {there:.3g} where they are compared "
                f"({measure} {distance:.3g}, bound {bound:.3g})"
            ),
        )


def _jensen_shannon(here: float, there: float) -> float:
    """Divergence, in bits, of two distributions over two outcomes."""
    return _entropy((here + there) / 2) - (_entropy(here) + _entropy(there)) / 2


def _entropy(share: float) -> float:
    return -sum(p * math.log2(p) for p in (share, 1.0 - share) if 0.0 < p < 1.0)
