"""A first spec, drafted from logs: every guess with its reason in a comment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pyarrow as pa

from components.daily_example_gen.day_store import DayLogs, list_logs
from components.daily_example_gen.fields import Field
from components.daily_example_gen.sampling import Sample, list_days, read_raw_sample, read_sample
from pipeline.onboarding import reading
from pipeline.onboarding.guesses import Guess, Role, of_roles
from pipeline.onboarding.histories import with_numbered_ids, without_untold
from pipeline.onboarding.kinds import fields_of
from pipeline.onboarding.left_out import without_passing_ids
from pipeline.onboarding.names import NO_EVENT_ID, event_id_rank, words
from pipeline.onboarding.roles import guess_roles
from pipeline.onboarding.spec_text import SpecWriter
from schemas.errors import BadDataError
from schemas.values import MAX_SPEC_NAME

DAY_BYTES = 32 << 20
"""What is read of a day."""

_DAYS_READ = 3
_RAW_EVENTS = 5000
_MALFORMED = 0.005
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Draft:
    """A drafted spec.

    Attributes:
        text: the YAML document.
        guesses: what each field was taken for.
        unread: fields that ingestion could not read, and why.
        days: days that have logs.
        samples: what was read, newest day first.
    """

    text: str
    guesses: tuple[Guess, ...]
    unread: dict[str, str]
    days: int
    samples: tuple[Sample, ...]

    def of(self, *roles: Role) -> list[Guess]:
        """The guesses of some roles."""
        return of_roles(self.guesses, *roles)


def draft_spec(
    logs_root: str, name: str, event_id: str | None = None, labels: Sequence[str] = ()
) -> Draft:
    """Drafts a spec from a part of the newest days of a log.

    Args:
        logs_root: folder with a folder of logs a day; may be remote.
        name: name of the ranker; made a valid one.
        event_id: the field with an id of the event; guessed if None.
        labels: the fields that are labels; guessed by their names if empty.

    Raises:
        BadDataError: the logs cannot be read, no field is unique to an event, no field is a
            label, or a field given is not there.
    """
    days = list_days(logs_root)
    listed = [list_logs(logs_root, date) for date in reversed(days[-_DAYS_READ:])]
    raw = [event for logs in listed for event in read_raw_sample(logs, _RAW_EVENTS)]
    if not raw:
        raise _nothing_read(logs_root, listed, [Field("event", "string")])
    found, unread = fields_of(raw)
    names = [field.source for field in found] + list(unread)
    _refuse_other_separators(names)
    given = [*([event_id] if event_id else []), *labels]
    absent = [field for field in given if field not in names]
    if absent:
        raise BadDataError(f"no event has a field {absent[0]!r}; there are {', '.join(names)}")
    listed = [logs for logs in listed if logs.files]
    read = reading.readable(listed[0], found, _MALFORMED)
    for field, why in read.refused.items():
        unread[field.source] = why + ("; log it as text" if field.kind == "string" else "")
    samples = [read_sample(logs, read.fields, DAY_BYTES) for logs in listed]
    tables = [sample.events for sample in samples if sample.events.num_rows]
    if not tables:
        raise _nothing_read(logs_root, listed, read.fields)
    guesses = with_numbered_ids(tables, guess_roles(tables, read.fields, event_id, labels))
    if all(sample.share == 1 for sample in samples):
        guesses = without_passing_ids(tables, guesses)
    guesses = without_untold(pa.concat_tables(tables), guesses, labels)
    _refuse_what_cannot_run(guesses, unread, labels)
    text = "\n".join(SpecWriter(_spec_name(name), guesses, unread, samples).lines()) + "\n"
    return Draft(text, tuple(guesses), unread, len(days), tuple(samples))


def _nothing_read(
    logs_root: str, listed: Sequence[DayLogs], fields: Sequence[Field]
) -> BadDataError:
    """What is wrong with the files of the newest day that has any, and what was passed over."""
    whys: list[str] = []
    for logs in listed:
        sample = read_sample(logs, tuple(fields), DAY_BYTES)
        if sample.malformed:
            (path, _), lines = sample.malformed[0], [line for _, line in sample.malformed]
            whys.append(f"{path}: {reading.told(lines)}")
        whys += [f"{path}: {why}" for path, why in sample.unreadable] + list(logs.notes)
        if whys:
            break
    return BadDataError(
        f"{logs_root}: no event of the newest days can be read: "
        f"{'; '.join(whys[:_SHOWN]) or 'the folders are empty'} (docs/event-logs.md says what logs "
        "look like, and how to bring others into this shape)"
    )


def _refuse_other_separators(names: Sequence[str]) -> None:
    if len(names) == 1 and (signs := [sign for sign in ";\t|" if sign in names[0]]):
        raise BadDataError(
            f"the only field is {names[0][:60]!r}; are its cells separated by "
            f"{signs[0]!r}? They must be by commas"
        )


def _refuse_what_cannot_run(
    guesses: Sequence[Guess], unread: Mapping[str, str], labels: Sequence[str]
) -> None:
    if not of_roles(guesses, Role.EVENT_ID):
        raise BadDataError(
            "no field is unique to each event of a day. Log an id with the impression, or make one "
            f"of what tells impressions apart, such as user, item and time.{_nearest_id(guesses)} "
            f"There are {'; '.join([*map(_told, guesses), *_untold(unread)])}"
        )
    for label in labels:
        why = unread.get(label)
        for guess in guesses:
            if guess.field.source == label and guess.role not in (Role.BINARY, Role.REGRESSION):
                why = guess.why
        if why is not None:
            raise BadDataError(f"{label}: cannot be a label: {why}")
    if not of_roles(guesses, Role.BINARY, Role.REGRESSION):
        raise BadDataError(
            "no field sounds like a label (clicked, liked, watch_time, ...) and can be one; name "
            "those that are by --label. There are "
            f"{'; '.join([*map(_told, guesses), *_untold(unread)])}"
        )
    if not of_roles(guesses, Role.CATEGORICAL, Role.DENSE):
        raise BadDataError("no field is left that could be a feature")


def _nearest_id(guesses: Sequence[Guess]) -> str:
    shares = {
        guess.field.source: guess.column.distinct / guess.column.rows
        for guess in guesses
        if guess.column and event_id_rank(guess.field.source) < NO_EVENT_ID
    }
    nearest = max(shares, key=lambda source: shares[source], default="")
    if shares.get(nearest, 0.0) < 0.5:
        return ""
    return (
        f" The nearest is {nearest}, with {shares[nearest]:.1%} different values; --id takes it, "
        "and of events with one id the last counts."
    )


def _told(guess: Guess) -> str:
    """A field by name, and what is to be said of it if it is not a label."""
    said = guess.why if guess.role is Role.UNUSED else guess.remark
    return f"{guess.field.source} ({said})" if said else guess.field.source


def _untold(unread: Mapping[str, str]) -> list[str]:
    return [f"{source} ({why})" for source, why in unread.items()]


def _spec_name(text: str) -> str:
    name = "-".join(words(text))[:MAX_SPEC_NAME].strip("-")
    return name if name[:1].isalpha() and name.isascii() else f"ranker-{name}".strip("-")
