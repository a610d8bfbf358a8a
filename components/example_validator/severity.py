"""Which anomalies stop a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from tensorflow_metadata.proto.v0 import anomalies_pb2

from schemas.errors import SpecError
from schemas.spec import Validation

_LEVELS = {"IGNORE": 0, "WARNING": 1, "ERROR": 2}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One anomaly of one field.

    Attributes:
        split: `train` or `eval`.
        field: the event field, or `events` for the data set as a whole.
        kind: TFDV's name of the anomaly, `AnomalyInfo.Type`.
        severity: `IGNORE`, `WARNING` or `ERROR`, with the spec's word counting before TFDV's.
        description: TFDV's description.
    """

    split: str
    field: str
    kind: str
    severity: str
    description: str

    def __str__(self) -> str:
        return f"{self.split}: {self.field}: {self.description} ({self.kind}, {self.severity})"


def findings(
    split: str, anomalies: anomalies_pb2.Anomalies, validation: Validation
) -> list[Finding]:
    """Lists a split's anomalies with the severity that the spec gives them.

    Raises:
        SpecError: `validation.severity` names no anomaly that TFDV knows.
    """
    known = anomalies_pb2.AnomalyInfo.Type.keys()
    for kind in validation.severity:
        if kind not in known:
            raise SpecError(f"validation.severity.{kind}: TFDV knows no such anomaly type")
    result = []
    for field, kind, severity, description in _reasons(anomalies):
        level = validation.severity.get(kind, severity)
        result.append(Finding(split, field, kind, level, description))
    return result


def stopping(found: Iterable[Finding], validation: Validation) -> list[Finding]:
    """Returns the findings that reach `validation.stop_at`."""
    if validation.stop_at == "NEVER":
        return []
    limit = _LEVELS[validation.stop_at]
    return [finding for finding in found if _LEVELS[finding.severity] >= limit]


def _reasons(anomalies: anomalies_pb2.Anomalies) -> Iterator[tuple[str, str, str, str]]:
    infos = [(name, info) for name, info in sorted(anomalies.anomaly_info.items())]
    if anomalies.HasField("dataset_anomaly_info"):
        infos.append(("events", anomalies.dataset_anomaly_info))
    for field, info in infos:
        # TFDV leaves the severity unset for anomalies it cannot judge: fail closed.
        severity = "WARNING" if info.severity == anomalies_pb2.AnomalyInfo.WARNING else "ERROR"
        for reason in info.reason:
            kind = anomalies_pb2.AnomalyInfo.Type.Name(reason.type)
            yield field, kind, severity, reason.description or reason.short_description
