import csv
import datetime
import decimal
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from components.daily_example_gen.fields import Field
from pipeline.cli import app
from pipeline.onboarding import draft as draft_module
from pipeline.onboarding import sizes
from pipeline.onboarding.check import check_logs
from pipeline.onboarding.columns import describe
from pipeline.onboarding.draft import _gate, draft_spec
from pipeline.onboarding.roles import Guess, Role, words
from schemas.errors import BadDataError
from schemas.loading import parse_spec

DAYS = [datetime.date(2026, 4, day) for day in range(1, 5)]
EVENTS = 400


def event(rng, day, number):
    user, item = int(rng.integers(80)), int(rng.integers(60))
    liking = 1 / (1 + np.exp(-np.sin(user) - np.cos(item)))
    clicked = bool(rng.random() < liking)
    return {
        "request.ID": f"r{day}-{number}",
        "request.Timestamp": 1_775_000_000 + 86_400 * day + number,
        "userId": f"u{user}",
        "item.Id": item,
        "item.Topics": [f"t{item % 7}", f"t{item % 5}"],
        "recentItems": [int(i) for i in rng.integers(60, size=3)],
        "item.price": round(float(np.exp(item / 10)), 2) if item % 9 else None,
        "deviceType": ["web", "iOS"][number % 2],
        "country": "CZ",
        "note": f"free text {rng.integers(10**9)}",
        "isPremium": bool(user % 2),
        "isClicked": clicked,
        "dwellTimeMs": int(clicked) * 5000 + int(rng.integers(1000)),
        "stars": float(rng.integers(2, 11)) / 2 if number % 3 == 0 else None,
    }


def flat(event):
    return event


def nested(event):
    made = {}
    for name, value in event.items():
        node = made
        *above, last = name.split(".")
        for key in above:
            node = node.setdefault(key, {})
        node[last] = value
    return made


def as_cell(value):
    if isinstance(value, list):
        return "|".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else value


def write_logs(root, suffix="jsonl", shape=nested, change=lambda event: event):
    rng = np.random.default_rng(0)
    for day, date in enumerate(DAYS):
        events = [change(event(rng, day, number)) for number in range(EVENTS)]
        folder = root / date.isoformat()
        folder.mkdir(parents=True)
        path = folder / f"part-0.{suffix}"
        if suffix == "csv":
            with open(path, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(events[0])
                writer.writerows([as_cell(value) for value in e.values()] for e in events)
        elif suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(list(map(shape, events))), path)
        else:
            path.write_text("".join(json.dumps(shape(e)) + "\n" for e in events))
    return str(root)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


FORMATS = [
    ("jsonl", nested),
    ("jsonl", flat),
    ("csv", flat),
    ("parquet", flat),
    ("parquet", nested),
]


@pytest.mark.parametrize(("suffix", "shape"), FORMATS)
def test_each_format_gives_the_same_spec_which_fits_its_logs(tmp_path, suffix, shape):
    logs = write_logs(tmp_path, suffix, shape)
    draft = draft_spec(logs, "My ranker v2")
    spec = parse_spec(draft.text, "draft")
    assert spec.name == "my-ranker-v2"
    assert spec.events.id == "request.ID"
    fields = {name: getattr(feature, "field", None) for name, feature in spec.features.items()}
    logged = {
        name: field for name, field in fields.items() if spec.features[name].type != "history"
    }
    assert logged == {
        "user_id": "userId",
        "item_id": "item.Id",
        "item_topics": "item.Topics",
        "recent_items": "recentItems",
        "item_price": "item.price",
        "device_type": "deviceType",
        "is_premium": "isPremium",
    }
    assert spec.categorical["item_id"].dtype == "int"
    assert spec.categorical["item_topics"].multivalued
    assert spec.categorical["recent_items"].table == "item_id"
    assert spec.categorical["user_id"].buckets >= 2 * 80
    assert spec.dense["item_price"].scale == "log1p"
    assert spec.dense["item_price"].default > 1
    assert {(name, task.kind, task.label, task.field) for name, task in spec.tasks.items()} == {
        ("clicked", "binary", "is_clicked", "isClicked"),
        ("dwell_time_ms", "regression", "dwell_time_ms", "dwellTimeMs"),
        ("stars", "regression", "stars", None),
    }
    assert {name: feature.of for name, feature in spec.history.items()} == {
        "user_history": ("user_id",),
        "item_history": ("item_id",),
    }
    assert spec.tasks["stars"].optional
    assert spec.serving.score == "clicked"
    stopping = [finding for finding in check_logs(spec, logs).findings if finding.stops]
    assert not stopping


def test_each_field_that_is_left_out_is_named_with_the_reason(logs):
    draft = draft_spec(logs, "ranker")
    left_out = {guess.field.source: guess.why for guess in draft.of(Role.UNUSED)}
    reasons = {
        "request.Timestamp": "a time: it only grows",
        "country": "'CZ' in every event",
        "note": "text, or an id of each event",
    }
    assert set(left_out) == set(reasons)
    for source, reason in reasons.items():
        assert reason in left_out[source]
        assert left_out[source] in draft.text


def role_of(draft, source):
    (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
    return guess.role


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("when", "role"),
    [
        ("{day}T{hour:02d}:15:00Z", Role.UNUSED),
        ("{day} {hour:02d}:15", Role.UNUSED),
        ("{day}", Role.UNUSED),
        ("{hour:02d}:15", Role.CATEGORICAL),
        ("2026-01-{released:02d}", Role.CATEGORICAL),
    ],
)
def test_text_that_tells_when_an_event_was_is_no_feature(tmp_path, when, role, suffix):
    days = {f"r{number}": date for number, date in enumerate(DAYS)}

    def timed(event):
        day, _, number = event["request.ID"].partition("-")
        hour, released = int(number) % 24, event["item.Id"] % 20 + 1
        return {**event, "shown": when.format(day=days[day], hour=hour, released=released)}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, timed), "ranker")
    assert role_of(draft, "shown") is role


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("customer", Role.CATEGORICAL),
        ("skuCode", Role.CATEGORICAL),
        ("cart.item", Role.CATEGORICAL),
        ("item_price", Role.DENSE),
        ("userFollows", Role.DENSE),
        ("videos", Role.DENSE),
    ],
)
def test_whole_numbers_are_names_or_amounts_by_the_end_of_their_name(tmp_path, name, role):
    def numbered(event):
        return {**event, name: 1000 + 17 * (int(event["request.ID"].partition("-")[2]) % 50)}

    draft = draft_spec(write_logs(tmp_path, "csv", flat, numbered), "ranker")
    assert role_of(draft, name) is role


@pytest.mark.parametrize("name", ["addedToCart", "is_upvoted", "hover"])
def test_a_flag_named_by_an_act_is_a_label(tmp_path, name):
    def acted(event):
        return {**event, name: int(int(event["request.ID"].partition("-")[2]) % 3 == 0)}

    draft = draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert role_of(draft, name) is Role.BINARY


def remark_on(draft, source):
    (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
    return guess.remark


def why_of(draft, source):
    (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
    return guess.why


def number_of(event):
    return int(event["request.ID"].partition("-")[2])


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("yes", "no"), "a label is 0, 1 or a number, not text such as '"),
        (("Y", "N"), "a label is 0, 1 or a number, not text such as '"),
        ((1, -1), "it is -1 or 1: log 0 or 1"),
        ((1, None), "each label is 1; log 0 for the other events"),
        (("45%", "7%", "31.5%"), "a label is 0, 1 or a number, not text such as"),
        (("4/5", "1/5", "5/5", "2/5"), "a label is 0, 1 or a number, not text such as"),
        ((3, 0, 0, 1), "is it a label, for --label, or a feature, to be added?"),
    ],
)
def test_what_sounds_like_a_label_and_can_be_none_is_no_feature(tmp_path, suffix, values, message):
    def acted(event):
        return {**event, "upvoted": values[number_of(event) % len(values)]}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, acted), "ranker")
    assert role_of(draft, "upvoted") is Role.UNUSED
    assert message in why_of(draft, "upvoted")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("name", "value", "role"),
    [
        ("stars", lambda e: e["item.Id"] % 4 + 1.5, Role.DENSE),
        ("views", lambda e: 1000 * e["item.Id"] + number_of(e), Role.DENSE),
        ("subscribed", lambda e: int(e["userId"][1:]) % 2, Role.CATEGORICAL),
        ("registered", lambda e: "yn"[int(e["userId"][1:]) % 2], Role.CATEGORICAL),
        ("rated", lambda e: number_of(e) % 4 + 1.5, Role.REGRESSION),
        ("purchased", lambda e: number_of(e) // 4 % 2, Role.BINARY),
    ],
)
def test_what_an_id_keeps_from_day_to_day_is_no_label(tmp_path, suffix, name, value, role):
    def described(event):
        # Four events each of a session, which no other day has.
        session = f"{event['request.ID'].partition('-')[0]}-{number_of(event) // 4}"
        values = {k: v for k, v in event.items() if k != "item.price"}
        return {**values, "session": session, name: value(event)}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, described), "ranker")
    assert role_of(draft, name) is role
    kept = role in (Role.DENSE, Role.CATEGORICAL)
    assert ("ids keep its value from day to day" in remark_on(draft, name)) == kept


@pytest.mark.parametrize(
    ("cells", "remark"),
    [
        (
            lambda n: f"€ {n % 50 + 1000:,}.50",
            r"numbers as text, such as '€ 1,\d\d\d.50': log the num",
        ),
        (lambda n: f"{n % 50}%", "numbers as text, such as '[0-9]+%': log the number alone"),
        (lambda n: f"{n % 50}.5", "numbers as text, such as '[0-9.]+': log the number alone"),
        (
            lambda n: ["NULL", "n/a", *map(str, range(40))][n % 42],
            "numbers, but for 'NULL', 'n/a': leave those empty",
        ),
        (lambda n: json.dumps({"app": "x", "n": n % 9}), "objects as text: log what they hold"),
        (lambda n: f"{n % 50}:{n % 60:02d}", "numbers as text, such as '[0-9:]+': log the number"),
        (lambda n: f"{n % 50:05d}", "^$"),
        (lambda n: f"{n % 50:02d}" if n % 7 else "none", "^$"),
        (lambda n: str(n % 50), "^$"),
        (lambda n: f"v{n % 50}", "^$"),
        (lambda n: str(10**17 + n % 50), "^$"),
    ],
)
def test_text_that_should_be_something_else_is_remarked(tmp_path, cells, remark):
    def told(event):
        return {**event, "fee": cells(number_of(event))}

    draft = draft_spec(write_logs(tmp_path, change=told), "ranker")
    assert role_of(draft, "fee") is Role.CATEGORICAL
    assert re.search(remark, remark_on(draft, "fee"))
    assert remark_on(draft, "fee") in draft.text
    assert not remark.startswith("numbers") or "fee_history" not in draft.text


def test_a_number_that_stands_for_no_value_is_asked_about(tmp_path):
    def shown(event):
        number = number_of(event)
        return {
            **event,
            "age": number % 40 + 18 if number % 5 else -1,
            "listened": number / 10 if number % 5 else -1.0,
            "balance": number % 40 - 7,
            "votes": number % 3 - 1,
            "stars": 1.0 if number % 5 else number / 10,
        }

    draft = draft_spec(write_logs(tmp_path, change=shown), "ranker")
    assert "-1 is the only value below 0" in remark_on(draft, "age")
    assert role_of(draft, "listened") is Role.UNUSED
    assert "-1 is the only value below 0" in why_of(draft, "listened")
    assert not remark_on(draft, "balance")
    assert "below 0" not in why_of(draft, "votes")
    assert "80% of the values are 1: an act of its own?" in why_of(draft, "stars")


def test_the_time_of_an_act_is_no_measure_of_it(tmp_path):
    def acted(event):
        return {**event, "viewedAt": event["request.Timestamp"] if number_of(event) % 3 else None}

    draft = draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert "it holds times: log 0 or 1, or how long it took" in why_of(draft, "viewedAt")


def test_ids_that_are_numbers_as_text_are_ids(tmp_path):
    def stringified(event):
        return {**event, "item.Id": str(event["item.Id"] or "none")}

    assert not remark_on(draft_spec(write_logs(tmp_path, change=stringified), "r"), "item.Id")


def test_two_values_that_no_id_keeps_are_asked_about(tmp_path):
    def flagged(event):
        return {**event, "reachedEnd": number_of(event) // 3 % 2}

    draft = draft_spec(write_logs(tmp_path, change=flagged), "ranker")
    assert "if it tells what came of the impression" in remark_on(draft, "reachedEnd")
    assert not remark_on(draft, "isPremium")


def test_an_id_of_whole_numbers_is_one_whatever_its_name(tmp_path):
    def renamed(event):
        odd = (event["item.Id"] + (number_of(event) % 5 == 0)) % 2
        kept = {"opus" if k == "item.Id" else k: v for k, v in event.items()}
        return {**kept, "isClicked": bool(odd)}

    draft = draft_spec(write_logs(tmp_path, change=renamed), "ranker")
    spec = parse_spec(draft.text, "draft")
    assert spec.categorical["opus"].dtype == "int"
    assert spec.history["opus_history"].of == ("opus",)
    assert spec.categorical["recent_items"].table == "opus"
    assert "taken for ids" in remark_on(draft, "opus")


def test_a_trace_of_a_measure_is_no_feature(tmp_path):
    def measured(event):
        seconds = event["dwellTimeMs"] / 1000
        return {**event, "progress": f"p{int(seconds)}", "elapsed": seconds + number_of(event) % 3}

    draft = draft_spec(write_logs(tmp_path, change=measured), "ranker", labels=["dwellTimeMs"])
    assert "only where dwellTimeMs is above its median" in why_of(draft, "progress")
    assert "tells dwellTimeMs on its own (AUC" in why_of(draft, "elapsed")


def test_a_pair_of_an_id_and_its_own_property_is_not_proposed(tmp_path):
    def owned(event):
        return {"plan": f"p{int(event['userId'][1:]) % 5}", "tab": number_of(event) % 3, **event}

    draft = draft_spec(write_logs(tmp_path, change=owned), "ranker")
    assert "{type: history, of: [user_id, tab]}" in draft.text


def test_decimals_are_numbers_and_times_are_told(tmp_path):
    def paid(event):
        return {
            **event,
            "basket": decimal.Decimal(event["item.Id"]) / 4,
            "item.Id": decimal.Decimal(event["item.Id"]),
            "opened": datetime.date(2026, 1, 1),
            "lasts": datetime.timedelta(seconds=3),
        }

    draft = draft_spec(write_logs(tmp_path, "parquet", flat, paid), "ranker")
    assert role_of(draft, "basket") is Role.DENSE
    assert role_of(draft, "item.Id") is Role.CATEGORICAL
    assert draft.unread["opened"].startswith("holds times; a field holds numbers, text")
    assert draft.unread["lasts"].startswith("holds durations; a field holds")


def test_why_no_field_can_be_a_label_is_told(tmp_path):
    def acted(event):
        kept = {k: v for k, v in event.items() if k in ("request.ID", "userId", "item.Id")}
        return {**kept, "liked": "yn"[number_of(event) % 2], "y": number_of(event) % 2}

    with pytest.raises(BadDataError) as told:
        draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert re.search(r"liked \(.*, but a label is 0, 1 or a number, not text", str(told.value))
    assert re.search(r"y \(two values, and no id keeps one .* by --label", str(told.value))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("", "csv"), ("Unnamed: 0", "csv"), ("__index_level_0__", "parquet"), ("a\tb", "jsonl")],
)
def test_the_index_of_a_table_is_no_field(tmp_path, name, suffix):
    def indexed(event):
        return {name: number_of(event), **event}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, indexed), "ranker")
    assert "drop it or name it" in draft.unread[name]
    assert parse_spec(draft.text, "draft").events.id == "request.ID"


@pytest.mark.parametrize("name", ["💡 hint", "a\u2028b", 'say "x": {y} # z', "naïve", "-", "012"])
def test_any_name_of_a_field_is_written_as_it_is(tmp_path, name):
    def named(event):
        return {**event, name: f"v{number_of(event) % 7}"}

    logs = write_logs(tmp_path, change=named)
    spec = parse_spec(draft_spec(logs, "ranker").text, "draft")
    assert name in {feature.field for feature in spec.categorical.values()}
    assert not [finding for finding in check_logs(spec, logs).findings if finding.stops]


def test_an_id_that_repeats_is_proposed(tmp_path):
    def repeated(event):
        day, _, number = event["request.ID"].partition("-")
        return {"id": f"{day}-{int(number) // 20 * 20 + max(int(number) % 20, 2)}", **kept(event)}

    def kept(event):
        return {k: v for k, v in event.items() if not k.startswith(("request.", "note"))}

    with pytest.raises(BadDataError, match=r"The nearest is id, with 90.0% different values; --id"):
        draft_spec(write_logs(tmp_path, change=repeated), "ranker")


def test_a_list_of_labels_is_none_and_a_list_of_what_was_clicked_is_asked_about(tmp_path):
    def listed(event):
        return {**event, "liked": [0, 1, 0], "clickedTopics": event["item.Topics"]}

    draft = draft_spec(write_logs(tmp_path, change=listed), "ranker")
    assert "not a list: log an event for each impression" in why_of(draft, "liked")
    assert role_of(draft, "clickedTopics") is Role.CATEGORICAL
    assert "leave it out, unless it tells of those before" in remark_on(draft, "clickedTopics")


@pytest.mark.parametrize(
    ("name", "value", "role"),
    [
        ("requestId", lambda day, number: f"{day}-{number // 4}", Role.UNUSED),
        ("traceId", lambda day, number: 1000 * day + number // 4, Role.UNUSED),
        ("logId", lambda day, number: f"log-{day}-{number}", Role.UNUSED),
        ("requestId", lambda day, number: f"{(day + number // 4) % 120}", Role.CATEGORICAL),
        ("weekday", lambda day, number: f"w{day}", Role.CATEGORICAL),
    ],
)
def test_an_id_of_which_no_value_comes_back_is_no_feature(tmp_path, name, value, role):
    def requested(event):
        return {**event, name: value(int(event["request.ID"][1]), number_of(event))}

    draft = draft_spec(write_logs(tmp_path, change=requested), "ranker", "request.ID")
    assert role_of(draft, name) is role


def test_ids_are_not_judged_by_whether_they_come_back_in_parts_of_days(tmp_path, monkeypatch):
    def requested(event):
        return {**event, "visitorId": f"{event['request.ID'][1]}-{number_of(event) // 4}"}

    logs = write_logs(tmp_path, change=requested)
    assert role_of(draft_spec(logs, "ranker"), "visitorId") is Role.UNUSED
    monkeypatch.setattr("components.daily_example_gen.sampling._MIN_PIECE_BYTES", 1000)
    monkeypatch.setattr("pipeline.onboarding.draft.DAY_BYTES", 60_000)
    assert role_of(draft_spec(logs, "ranker"), "visitorId") is Role.CATEGORICAL


def test_a_field_that_the_newest_day_lacks_is_no_feature(tmp_path):
    def dropped(event):
        day = int(event["request.ID"][1])
        return {**event, "old": event["item.Id"] if day < 3 else None}

    draft = draft_spec(write_logs(tmp_path, change=dropped), "ranker")
    assert why_of(draft, "old") == "no event of the newest day has a value"


def test_an_id_of_numbers_and_text_is_left_out_and_told(tmp_path):
    def mixed(event):
        number = event["item.Id"]
        return {**event, "item.Id": str(number) if number_of(event) % 9 == 0 else number}

    why = draft_spec(write_logs(tmp_path, change=mixed), "ranker").unread["item.Id"]
    assert re.search(r"of the events: expected a string, got \d+; log it as text", why)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_ids_beyond_int64_must_be_text(tmp_path, suffix):
    def large(event):
        return {**event, "session": 2**64 - 1 - event["item.Id"]}

    folder = tmp_path / "logs"
    if suffix == "jsonl":
        write_logs(folder, suffix, flat, large)
    else:
        write_logs(folder, suffix, flat)
        for path in folder.glob("*/*.parquet"):
            ids = pa.array([2**64 - 1 - n % 40 for n in range(EVENTS)], pa.uint64())
            pq.write_table(pq.read_table(path).append_column("session", ids), path)
    assert "beyond int64, which must be text" in draft_spec(str(folder), "ranker").unread["session"]


def test_an_id_that_is_another_under_another_name_is_left_out_once(tmp_path):
    def titled(event):
        return {**event, "item.Title": f"On number {event['item.Id']}"}

    draft = draft_spec(write_logs(tmp_path, change=titled), "ranker")
    assert role_of(draft, "item.Id") is Role.CATEGORICAL
    assert role_of(draft, "item.Title") is Role.UNUSED
    assert "tells the same as item.Id" in draft.text


def test_a_list_of_fractions_is_named_and_is_no_list_of_ids(tmp_path):
    def embedded(event):
        return {**event, "item.Vector": [0.5, 1.0, event["item.Id"] / 7]}

    draft = draft_spec(write_logs(tmp_path, change=embedded), "ranker")
    (why,) = draft.unread.values()
    assert why.startswith(
        "holds list of numbers and list of whole numbers; a field holds numbers, "
    )


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e9])
def test_a_time_with_fractions_is_no_feature(tmp_path, unit):
    def timed(event):
        return {**event, "request.Timestamp": (event["request.Timestamp"] + 0.25) * unit}

    draft = draft_spec(write_logs(tmp_path, change=timed), "ranker")
    assert role_of(draft, "request.Timestamp") is Role.UNUSED


@pytest.mark.parametrize("every", [50, 300])
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_measure_that_is_nearly_always_zero_is_a_number(tmp_path, suffix, every):
    def paid(event):
        number = int(event["request.ID"].partition("-")[2])
        return {**event, "bid": 21.18 if number % every == 0 else 0.0}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, paid), "ranker")
    assert role_of(draft, "bid") is Role.DENSE
    assert not draft.unread


def test_fractions_that_come_after_the_first_events_make_a_number(tmp_path, monkeypatch):
    def paid(event):
        number = int(event["request.ID"].partition("-")[2])
        return {**event, "bid": number + (0.5 if number > 200 else 0)}

    monkeypatch.setattr(draft_module, "_RAW_EVENTS", 100)
    draft = draft_spec(write_logs(tmp_path, "csv", flat, paid), "ranker")
    assert role_of(draft, "bid") is Role.DENSE
    assert not draft.unread


def test_labels_that_are_given_are_the_only_ones_and_acts_are_no_features(logs):
    draft = draft_spec(logs, "ranker", labels=["isPremium", "stars"])
    assert set(parse_spec(draft.text, "draft").tasks) == {"premium", "stars"}
    for source in ("isClicked", "dwellTimeMs"):
        (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
        assert guess.role is Role.UNUSED
        assert "known only after the impression" in guess.why


def test_a_number_that_tells_a_label_all_alone_is_no_feature(tmp_path):
    def renamed(event):
        return {"elapsed" if k == "dwellTimeMs" else k: v for k, v in event.items()}

    draft = draft_spec(write_logs(tmp_path, change=renamed), "ranker")
    (guess,) = [guess for guess in draft.guesses if guess.field.source == "elapsed"]
    assert guess.role is Role.UNUSED
    assert "tells isClicked on its own (AUC 1.000): known only after the impression?" in draft.text


@pytest.mark.parametrize("absent", [None, 0, 7.5])
@pytest.mark.parametrize("share", [1, 5])
def test_a_value_that_is_there_with_a_label_alone_is_no_feature(tmp_path, absent, share):
    def later(event):
        number = int(event["request.ID"].partition("-")[2])
        there = number % 3 == 0 and number % share == 0
        acted = {"booked": int(number % 3 == 0), "lag": number + 0.5 if there else absent}
        return {**event, **acted, "gap": number + 0.5 if number % 4 == 0 else absent}

    draft = draft_spec(write_logs(tmp_path, change=later), "ranker")
    assert role_of(draft, "lag") is Role.UNUSED
    assert "has a value of its own only where booked is 1" in draft.text
    assert role_of(draft, "gap") is Role.DENSE


@pytest.mark.parametrize("sign", [";", "\t"])
def test_cells_that_no_comma_separates_are_told(tmp_path, sign):
    path = tmp_path / "2026-04-01"
    path.mkdir()
    path.joinpath("a.csv").write_text(f"id{sign}user{sign}clicked\n1{sign}u1{sign}0\n")
    with pytest.raises(BadDataError, match=r"are its cells separated by .* must be by commas"):
        draft_spec(str(tmp_path), "ranker")


def two_columns_of_a_name(root):
    table = pa.table([["a"], ["b"], [1]], names=["id", "id", "clicked"])
    pq.write_table(table, root / "a.parquet")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda root: (root / "a.jsonl.zst").write_bytes(b"("),
            r"a\.jsonl\.zst: ignored, its suffix",
        ),
        (lambda root: (root / "03").mkdir(), "03: ignored, it is no file"),
        (lambda root: (root / "a.jsonl").write_text('[{"id": 1},\n'), "a.jsonl: not valid JSON"),
        (
            lambda root: (root / "a.csv").write_bytes("id,město\n1,2\n".encode("iso-8859-2")),
            "a.csv: the header is not valid UTF-8",
        ),
        (lambda root: (root / "a.jsonl.gz").write_bytes(b"{}"), r"a\.jsonl\.gz: the gzip stream"),
        (lambda root: (root / "a.csv").touch(), "a.csv: empty"),
        (lambda root: None, "the folders are empty"),
        (two_columns_of_a_name, "a.parquet: two columns are named 'id'"),
    ],
)
def test_logs_of_which_nothing_can_be_read_are_told_with_the_reason(tmp_path, write, message):
    newest = tmp_path / "2026-04-02"
    for folder in (newest, tmp_path / "2026-04-01"):
        folder.mkdir()
    write(newest)
    with pytest.raises(BadDataError, match=f"can be read: .*{message}.* docs/event-logs.md"):
        draft_spec(str(tmp_path), "ranker")


@pytest.mark.parametrize("name", ["dt=2026-04-01", "20260401", "2026-04-01.csv"])
def test_folders_that_are_no_days_are_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(BadDataError, match=f"holds no day but '{name}'; logs lie"):
        draft_spec(str(tmp_path), "ranker")


@pytest.mark.parametrize("join", [",", "; "])
def test_text_that_looks_like_lists_is_remarked(tmp_path, join):
    def joined(event):
        return {**event, "item.Topics": join.join(event["item.Topics"])}

    draft = draft_spec(write_logs(tmp_path, change=joined), "ranker")
    (line,) = [line for line in draft.text.splitlines() if "item_topics: {" in line]
    assert "lists by the look of it: log them as lists, in CSV joined by |" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: {k: v for k, v in e.items() if k != "request.ID"}, "no field is unique to each"),
        (
            lambda e: {
                k: v for k, v in e.items() if k not in ("isClicked", "dwellTimeMs", "stars")
            },
            "no field sounds like a label",
        ),
        (
            lambda e: {"request.ID": e["request.ID"], "isClicked": e["isClicked"]},
            "no field is left",
        ),
    ],
)
def test_logs_that_no_spec_could_be_of_are_refused(tmp_path, change, message):
    def without_other_ids(event):
        return {k: v for k, v in change(event).items() if k not in ("note", "request.Timestamp")}

    with pytest.raises(BadDataError, match=message):
        draft_spec(write_logs(tmp_path, change=without_other_ids), "ranker")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["clicks"]}, "no event has a field 'clicks'; there are request.ID, "),
        (
            {"labels": ["userId"]},
            "userId: cannot be a label: by --label, but a label is 0, 1 or a number, not text",
        ),
        ({"event_id": "id"}, "no event has a field 'id'"),
    ],
)
def test_fields_given_that_cannot_be_what_they_are_to_be_are_refused(logs, options, message):
    with pytest.raises(BadDataError, match=message):
        draft_spec(logs, "ranker", **options)


def test_an_id_may_be_given(logs):
    assert parse_spec(draft_spec(logs, "ranker", "note").text, "draft").events.id == "note"


def test_names_are_made_valid_and_different(tmp_path):
    def renamed(event):
        number = event["item.Id"] / 7
        more = {"self": number, "2nd": number, "Größe (cm)": number}
        return {**event, **more, "user_id": event["deviceType"] + event["userId"]}

    spec = parse_spec(draft_spec(write_logs(tmp_path, change=renamed), "3 days").text, "draft")
    assert spec.name == "ranker-3-days"
    fields = {getattr(f, "field", None) or name: name for name, f in spec.features.items()}
    assert fields["self"] == "self_2"
    assert fields["2nd"] == "field_2nd"
    assert (fields["userId"], fields["user_id"]) == ("user_id", "user_id_2")
    assert fields["Größe (cm)"] == "gr_e_cm"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("isClicked", ["is", "clicked"]),
        ("HTTPStatus", ["http", "status"]),
        ("Age (days)", ["age", "days"]),
        ("item.topic-id", ["item", "topic", "id"]),
    ],
)
def test_words_of_a_name(name, expected):
    assert words(name) == expected


@pytest.mark.parametrize(
    ("values", "buckets"),
    [
        (0, 16),
        (1, 32),
        (20, 1024),
        (366, 16_384),
        (2048, 65_536),
        (30_000, 65_536),
        (40_000, 131_072),
        (65_537, 262_144),
        (10**9, 1 << 22),
    ],
)
def test_small_tables_have_room_for_ids_to_come_and_large_ones_two_rows_a_value(values, buckets):
    assert sizes.buckets(values) == buckets


def test_command_writes_the_spec_once_and_says_what_it_guessed(logs, tmp_path):
    path = tmp_path / "first.yaml"
    call = ["init", logs, "--spec", str(path)]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 0, result.output
    assert "isClicked: label of a binary task, guessed by 'clicked' in its name" in result.output
    assert "left out: country: 'CZ' in every event that has a value" in result.output
    assert "look at: deviceType: two values" in result.output
    assert f"warning: logs of 2026-04-04: about {EVENTS} events: too few" in result.output
    assert yaml.safe_load(path.read_text())["name"] == "first"
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 1
    assert "already exists; --force replaces it" in again.output
    assert CliRunner().invoke(app, [*call, "--force"]).exit_code == 0


def test_command_says_that_there_are_no_logs(tmp_path):
    result = CliRunner().invoke(app, ["init", str(tmp_path), "-s", str(tmp_path / "a.yaml")])
    assert result.exit_code == 11
    assert "holds no day" in result.output
    assert not (tmp_path / "a.yaml").exists()


@pytest.mark.parametrize(("positives", "negatives"), [(30, 2000), (120, 4000), (1500, 1500)])
def test_a_model_as_good_as_smoothed_rates_is_rarely_blocked_for_its_lift(positives, negatives):
    rng = np.random.default_rng(positives)
    draws = 300
    # Two scores of each event, both with an AUC of 0.7, that agree in half of their variance.
    both = rng.normal(size=(draws, positives + negatives)) * np.sqrt(0.5)
    own = rng.normal(size=(2, draws, positives + negatives)) * np.sqrt(0.5)
    scores = both + own
    scores[:, :, :positives] += 0.742
    ranks = scores.argsort(axis=2).argsort(axis=2)[:, :, :positives] + 1
    aucs = (ranks.sum(axis=2) - positives * (positives + 1) / 2) / (positives * negatives)
    assert aucs.mean() == pytest.approx(0.7, abs=0.01)
    (gate,) = lift_bounds(positives, positives + negatives)
    blocked = (aucs[0] - aucs[1] < gate).mean()
    assert blocked < 0.05
    assert gate > -0.15


def lift_bounds(positives, events):
    """What `init` writes for a label with so many positives among a day's events."""
    labels = np.zeros(events)
    labels[:positives] = 1
    column = describe(pa.chunked_array([labels]))
    guess = Guess(Field("clicked", "binary"), Role.BINARY, "", column)
    for line in _gate(guess, column, events):
        if found := re.search(r"min_auc_lift: (-[0-9.]+)", line):
            yield float(found[1])
