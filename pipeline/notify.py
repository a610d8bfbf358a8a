"""Tells people and programs how days end: by a command, by an HTTP webhook, or both.

Where to is said by environment variables, so that secrets in it reach neither the spec nor ML
Metadata. What is sent is a CloudEvent (https://cloudevents.io, version 1.0, JSON format): the
command gets it on standard input, the webhook as a POST in structured content mode. Delivery
has time limits and is tried again; when it fails for good, that is a warning and no more.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging
from cloudevents.conversion import to_structured
from cloudevents.exceptions import DataMarshallerError
from cloudevents.http import CloudEvent

from components import serving_store
from pipeline import lineage
from pipeline.workspace import Workspace
from schemas.spec import RankingSpec

URL_VARIABLE = "STEADYRANK_NOTIFY_URL"
COMMAND_VARIABLE = "STEADYRANK_NOTIFY_COMMAND"

_TYPES = "io.steadyrank.day."
_ATTEMPTS = 3
_WAIT_SECONDS = 2.0
_HTTP_SECONDS = 10.0
_COMMAND_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class Notice:
    """Something that people want to hear of.

    Attributes:
        kind: `pushed`, `blocked`, `failed`, `held`, `recovered` or `old`.
        run_date: the day, YYYY-MM-DD; empty if it is not known.
        data: what there is to say, for JSON.
    """

    kind: str
    run_date: str
    data: Mapping[str, Any]

    def cloud_event(self, source: str) -> CloudEvent:
        """Returns the notice as a CloudEvent.

        Args:
            source: URI reference of the workspace or pipeline that it is about.
        """
        attributes = {"type": f"{_TYPES}{self.kind}", "source": source}
        if self.run_date:  # an attribute that is there must not be empty
            attributes["subject"] = self.run_date
        return CloudEvent(
            {**attributes, "datacontenttype": "application/json"}, data=dict(self.data)
        )


def notices_of(
    outcome: str,
    run_date: str,
    data: Mapping[str, Any],
    *,
    before: str,
    notes: Iterable[str] = (),
    served_age_days: int | None = None,
    max_age_days: int | None = None,
) -> list[Notice]:
    """Says what there is to tell after a run.

    Args:
        outcome: `pushed`, `blocked` or `failed`.
        run_date: the run's day.
        data: what there is to say of the run.
        before: outcome of the run before it; empty if there was none.
        notes: remarks of its components; a held day is one of them.
        served_age_days: days from the served version's day to the run's; None if none is served.
        max_age_days: how old the served version may be; None for no limit.
    """
    notices = [Notice(outcome, run_date, data)]
    if outcome == "pushed" and before in ("blocked", "failed"):
        notices.append(Notice("recovered", run_date, data))
    held = [note for note in notes if ": held" in note]
    if held:
        notices.append(Notice("held", run_date, {"days": held}))
    if served_age_days is not None and served_age_days > (max_age_days or served_age_days):
        notices.append(Notice("old", run_date, {"served_age_days": served_age_days}))
    return notices


def after_day(
    workspace: Workspace, spec: RankingSpec, run_date: str, run: lineage.Run | None, reason: str
) -> None:
    """Tells how a day of a workspace ended; never raises.

    Args:
        workspace: where it was run.
        spec: its ranking spec.
        run_date: the day.
        run: what ML Metadata knows of it; None if it never began.
        reason: why it ended as it did, in a line.
    """
    if not _wanted(os.environ):
        return
    try:
        served = serving_store.served_version(workspace.serving)
        age = None
        if served is not None:
            age = (datetime.date.fromisoformat(run_date) - served.info.run_date).days
        store = lineage.open_store(workspace.metadata_path)
        runs = lineage.list_runs(store) if store is not None else []
        earlier = [other.outcome for other in runs if run is None or other.run_id != run.run_id]
        data = {
            "reason": reason,
            "run_id": run.run_id if run else "",
            "served_version": served.version if served else None,
            "events": dict(run.events) if run else {},
        }
        notices = notices_of(
            run.outcome if run else "failed",
            run_date,
            data,
            before=earlier[-1] if earlier else "",
            notes=run.notes if run else (),
            served_age_days=age,
            max_age_days=spec.serving.max_age_days,
        )
    except Exception as error:
        logging.warning("%s: notifications lack what could not be read: %s", run_date, error)
        outcome = run.outcome if run else "failed"
        notices = [Notice(outcome, run_date, {"reason": reason})]
    send(notices, f"/steadyrank/{spec.name}")


def _wanted(environment: Mapping[str, str]) -> bool:
    return bool(environment.get(URL_VARIABLE) or environment.get(COMMAND_VARIABLE))


def send(
    notices: Sequence[Notice], source: str, environment: Mapping[str, str] = os.environ
) -> None:
    """Delivers notices to wherever the environment says; never raises."""
    url, command = environment.get(URL_VARIABLE), environment.get(COMMAND_VARIABLE)
    for notice in notices if url or command else ():
        try:
            headers, body = to_structured(notice.cloud_event(source))
        except DataMarshallerError as error:
            logging.warning("notification %r cannot be written as JSON: %s", notice.kind, error)
            continue
        if command:
            _deliver(COMMAND_VARIABLE, notice.kind, lambda: _run(command, body))  # noqa: B023
        if url:
            _deliver(URL_VARIABLE, notice.kind, lambda: _post(url, headers, body))  # noqa: B023


def _deliver(variable: str, kind: str, attempt: Any) -> None:
    for number in range(1, _ATTEMPTS + 1):
        try:
            attempt()
            return
        except _RefusedError as error:
            reason = str(error)
            break
        except Exception as error:
            # Neither the address nor the command, which may hold secrets.
            reason = _reason(error)
            if number < _ATTEMPTS:
                time.sleep(_WAIT_SECONDS * number)
    logging.warning("%s: the notification %r was not delivered: %s", variable, kind, reason)


class _RefusedError(Exception):
    """A delivery that another attempt would not mend."""


def _run(command: str, body: bytes) -> None:
    subprocess.run(
        shlex.split(command),
        input=body,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_COMMAND_SECONDS,
        check=True,
    )


def _post(url: str, headers: Mapping[str, str], body: bytes) -> None:
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise _RefusedError("the address is neither http:// nor https://")
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_HTTP_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        if error.code < 500 and error.code not in (408, 429):
            raise _RefusedError(f"HTTP {error.code}") from None
        raise


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no end after {_COMMAND_SECONDS:.0f} s"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
