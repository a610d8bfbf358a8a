"""Which fields `init` takes for features, and of which kind."""

import datetime
import decimal
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onboarding_logs import DAYS, EVENTS, flat, number_of, remark_on, role_of, why_of, write_logs

from pipeline.onboarding import draft as draft_module
from pipeline.onboarding import spec_text
from pipeline.onboarding.check import check_logs
from pipeline.onboarding.draft import draft_spec
from pipeline.onboarding.guesses import Role
from pipeline.onboarding.names import words
from schemas.loading import parse_spec


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("when", "role"),
    [
        ("{day}T{hour:02d}:15:00Z", Role.UNUSED),
        ("{day} {hour:02d}:15", Role.UNUSED),
        ("{day:%d.%m.%Y} {hour:02d}:15", Role.UNUSED),
        ("{day:%m/%d/%Y}, {hour}:15", Role.UNUSED),
        ("{day:%Y/%m/%d}", Role.UNUSED),
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


@pytest.mark.parametrize("time", [1_775_000_000_000, "2026-04-01T10:00:00.{:06d}Z"])
def test_a_time_is_not_the_id_of_an_event_though_it_is_unique_to_each(tmp_path, time):
    def timed(event):
        number = int(event["request.ID"].partition("-")[2])
        shown = time.format(number) if isinstance(time, str) else time + number
        return {"eventTimeMs": shown, **event}

    draft = draft_spec(write_logs(tmp_path, "jsonl", flat, timed), "ranker")
    assert role_of(draft, "request.ID") is Role.EVENT_ID
    assert role_of(draft, "eventTimeMs") is Role.UNUSED


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
        (
            lambda n: "\\N" if n % 7 else f"{n % 50},{n % 9}",
            r"as text, such as '\d+,\d': log the number alone, and leave '.*N' empty, in JSON null",
        ),
        (lambda n: f"{n % 5},5", "^$"),
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


@pytest.mark.parametrize(
    ("name", "value", "role"),
    [
        ("daysOnline", lambda day, n: 40 + day - n % 5 * (n % 4 == 0), Role.DENSE),
        ("daysLeft", lambda day, n: 9 - day, Role.DENSE),
        ("childSeats", lambda day, n: n % 5, Role.CATEGORICAL),
        ("dayOfWeek", lambda day, n: day, Role.CATEGORICAL),
        ("rainy", lambda day, n: int(day == 3 and n % 2), Role.CATEGORICAL),
        ("wave", lambda day, n: n % (5 if day < 3 else 7), Role.CATEGORICAL),
    ],
)
def test_few_numbers_that_are_others_each_day_are_no_categories(tmp_path, name, value, role):
    def aged(event):
        day = int(event["request.ID"].partition("-")[0][1:])
        return {**event, name: value(day, number_of(event))}

    assert role_of(draft_spec(write_logs(tmp_path, change=aged), "ranker"), name) is role


@pytest.mark.parametrize(("name", "asked"), [("position", True), ("positionInSession", False)])
def test_a_place_in_the_list_is_asked_about(tmp_path, name, asked):
    def placed(event):
        return {**event, name: number_of(event) % 10}

    draft = draft_spec(write_logs(tmp_path, change=placed), "ranker")
    assert role_of(draft, name) is Role.CATEGORICAL
    assert ("Nobody knows it before the list is sorted" in remark_on(draft, name)) is asked


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_dot_in_the_name_of_a_field_within_an_object_is_told(tmp_path, suffix):
    def dotted(event):
        return {**event, "context": {"Device.Model": f"m{number_of(event) % 9}"}}

    draft = draft_spec(write_logs(tmp_path, suffix, flat, dotted), "ranker")
    assert role_of(draft, "context.Device.Model") is Role.UNUSED
    assert "does a name within an object have a dot?" in why_of(draft, "context.Device.Model")


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
    assert "80.2% of the values are 1: an act of its own?" in why_of(draft, "stars")


@pytest.mark.parametrize(
    ("value", "shown"), [(False, "false in every"), (0, "0 in every"), ("CZ", "'CZ' in every")]
)
def test_a_value_that_every_event_has_is_shown_as_it_is_logged(tmp_path, value, shown):
    draft = draft_spec(write_logs(tmp_path, change=lambda e: {**e, "isTest": value}), "ranker")
    assert why_of(draft, "isTest").startswith(shown)


def test_acts_in_one_field_are_asked_about(tmp_path):
    def acted(event):
        kind = ["view", "click", "transaction", "none"][number_of(event) % 4]
        return {**event, "kind": kind, "page": ["home", "search", "click"][number_of(event) % 3]}

    draft = draft_spec(write_logs(tmp_path, change=acted), "ranker")
    assert remark_on(draft, "kind").startswith("'click' and 'transaction' sound like what came of")
    assert not remark_on(draft, "page")


@pytest.mark.parametrize(
    ("name", "asked"),
    [("userClicksToday", True), ("session_item_views", True), ("item_clicks_past_week", False)],
)
def test_a_count_that_may_include_the_impression_is_asked_about(tmp_path, name, asked):
    def counted(event):
        return {**event, name: number_of(event) % 97 + 3}

    draft = draft_spec(write_logs(tmp_path, change=counted), "ranker")
    assert role_of(draft, name) is Role.DENSE
    assert ("does it include what comes of" in remark_on(draft, name)) is asked


def test_ids_that_are_numbers_as_text_are_ids(tmp_path):
    def stringified(event):
        return {**event, "item.Id": str(event["item.Id"] or "none")}

    assert not remark_on(draft_spec(write_logs(tmp_path, change=stringified), "r"), "item.Id")


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


@pytest.mark.parametrize("most", [1_000_000, EVENTS - 1])
def test_a_pair_of_ids_that_tells_more_than_each_has_a_history(tmp_path, monkeypatch, most):
    def liked(event):
        tab = number_of(event) % 3
        return {**event, "tab": tab, "isClicked": (int(event["userId"][1:]) + tab) % 3 == 0}

    monkeypatch.setattr(spec_text, "_CROSSED_DAY", most)
    draft = draft_spec(write_logs(tmp_path, change=liked), "ranker")
    line = "user_tab_history: {type: history, of: [user_id, tab]}"
    history = parse_spec(draft.text, "drafted").history
    if most > EVENTS:
        assert history["user_tab_history"].of == ("user_id", "tab")
    else:
        assert "user_tab_history" not in history
        assert f"  # {line}    # it takes much memory to count so many pairs\n" in draft.text


def test_an_id_and_what_it_keeps_are_no_pair(tmp_path):
    """Few events of an id leave much of it untold, which the pair would tell."""

    def liked(event):
        user = number_of(event) * 7 % 150
        own = {"userId": f"u{user}", "team": f"t{user % 7}", "isClicked": user * 31 % 11 % 2 == 0}
        return {**event, **own, **({"isClicked": True} if rng.random() < 0.3 else {})}

    rng = np.random.default_rng(1)

    draft = draft_spec(write_logs(tmp_path, change=liked), "ranker", labels=["isClicked"])
    history = [feature.of for feature in parse_spec(draft.text, "drafted").history.values()]
    assert ("user_id",) in history
    assert not {("user_id", "team"), ("team", "user_id")}.intersection(history)


def test_the_largest_ids_have_a_history_whatever_others_tell(tmp_path):
    def seen(event):
        drawn = rng.integers(3, size=6).tolist()
        tabs = {f"tab{n}": value for n, value in enumerate(drawn)}
        user, item, seller, shop = rng.integers([230, 230, 230, 90]).tolist()
        ids = {"userId": f"u{user}", "item.Id": item, "sellerId": f"s{seller}", "shop": f"s{shop}"}
        return {**event, **tabs, **ids, "isClicked": drawn.count(0) > 2}

    rng = np.random.default_rng(1)

    draft = draft_spec(write_logs(tmp_path, change=seen), "ranker", labels=["isClicked"])
    history = {feature.of for feature in parse_spec(draft.text, "drafted").history.values()}
    assert {("user_id",), ("item_id",), ("seller_id",)} < history
    assert {(f"tab{n}",) for n in range(6)} < history
    assert ("shop",) not in history


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
    assert draft.unread["opened"].startswith("a time: it only grows")
    assert draft.unread["lasts"].startswith("holds durations; a field holds")


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


@pytest.mark.parametrize("join", [",", "; "])
def test_text_that_looks_like_lists_is_remarked(tmp_path, join):
    def joined(event):
        return {**event, "item.Topics": join.join(event["item.Topics"])}

    draft = draft_spec(write_logs(tmp_path, change=joined), "ranker")
    (line,) = [line for line in draft.text.splitlines() if "item_topics: {" in line]
    assert "lists by the look of it: log them as lists, in CSV joined by |" in line


def test_names_are_made_valid_and_different(tmp_path):
    def renamed(event):
        number = event["item.Id"] / 7
        more = {"self": number, "2nd": number, "Größe (cm)": number, "tab.tabSize": number}
        return {**event, **more, "user_id": event["deviceType"] + event["userId"]}

    spec = parse_spec(draft_spec(write_logs(tmp_path, change=renamed), "3 days").text, "draft")
    assert spec.name == "ranker-3-days"
    fields = {getattr(f, "field", None) or name: name for name, f in spec.features.items()}
    assert fields["self"] == "self_2"
    assert fields["2nd"] == "field_2nd"
    assert (fields["userId"], fields["user_id"]) == ("user_id", "user_id_2")
    assert fields["Größe (cm)"] == "gr_e_cm"
    assert fields["tab.tabSize"] == "tab_size"


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
