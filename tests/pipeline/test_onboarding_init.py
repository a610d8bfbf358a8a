"""The spec that `init` drafts, and what it says."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from onboarding_logs import DAYS, EVENTS, flat, nested, write_logs
from typer.testing import CliRunner

from components.daily_example_gen.fields import Field
from pipeline.cli import app
from pipeline.onboarding import sizes
from pipeline.onboarding.check import check_logs
from pipeline.onboarding.columns import describe
from pipeline.onboarding.draft import draft_spec
from pipeline.onboarding.guesses import Guess, Role
from pipeline.onboarding.spec_text import _gate
from schemas.errors import BadDataError
from schemas.loading import parse_spec


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
        "note": "1,200 values for 1,200 events: text, or an id of each event",
    }
    assert set(left_out) == set(reasons)
    for source, reason in reasons.items():
        assert reason in left_out[source]
        assert left_out[source] in draft.text


def test_an_id_that_repeats_is_proposed(tmp_path):
    def repeated(event):
        day, _, number = event["request.ID"].partition("-")
        return {"id": f"{day}-{int(number) // 20 * 20 + max(int(number) % 20, 2)}", **kept(event)}

    def kept(event):
        return {k: v for k, v in event.items() if not k.startswith(("request.", "note"))}

    with pytest.raises(BadDataError, match=r"The nearest is id, with 90.0% different values; --id"):
        draft_spec(write_logs(tmp_path, change=repeated), "ranker")


@pytest.mark.parametrize("cell", ["7", "7,5"])
@pytest.mark.parametrize("sign", [";", "\t"])
def test_cells_that_no_comma_separates_are_told(tmp_path, sign, cell):
    path = tmp_path / "2026-04-01"
    path.mkdir()
    path.joinpath("a.csv").write_text(f"id{sign}price{sign}clicked\n1{sign}{cell}{sign}0\n")
    with pytest.raises(
        BadDataError, match=r"are its cells separated by '.*'\? They must be by com"
    ):
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
        (lambda root: (root / "03").mkdir(), "03: ignored, it is not a file"),
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
    with pytest.raises(BadDataError, match=f"can be read: .*{message}.* \\(docs/event-logs.md"):
        draft_spec(str(tmp_path), "ranker")


@pytest.mark.parametrize("name", ["dt=2026-04-01", "20260401", "2026-04-01.csv"])
def test_folders_that_are_no_days_are_named(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(BadDataError, match=f"holds no day but '{name}'; logs lie"):
        draft_spec(str(tmp_path), "ranker")


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


@pytest.mark.parametrize(
    ("values", "day_events", "width"),
    [(2, 1000, 16), (30_000, 1000, 16), (2, 999, 2), (32, 999, 4), (33, 999, 8), (1001, 999, 16)],
)
def test_embeddings_are_narrow_only_where_days_are_tiny(values, day_events, width):
    assert sizes.width(values, day_events) == width


@pytest.mark.parametrize(("events", "anew"), [(19_000, True), (21_000, False)])
def test_days_that_are_small_are_trained_on_anew(tmp_path, events, anew):
    day = tmp_path / "2026-04-04"
    day.mkdir()
    lines = (f"e{n},u{n % 97},{n % 24},{n % 3 // 2}" for n in range(events))
    (day / "part-0.csv").write_text("\n".join(["event_id,user_id,hour,clicked", *lines]))
    training = parse_spec(draft_spec(str(tmp_path), "small").text, "drafted").training
    assert training.warm_start is not anew
    assert training.window_days == (14 if anew else 7)


@pytest.mark.parametrize(
    ("users", "items", "one_in", "interactions"),
    [
        (250, 250, 2, 16),  # 11 clicks of each in two weeks, and as many events without one
        (250, 250, 3, 0),  # 7 clicks
        (400, 250, 2, 0),
        (250, 400, 2, 0),
        (250, 60, 2, 0),  # one id, and a category
    ],
)
def test_ids_that_have_labels_enough_have_interactions(
    tmp_path, users, items, one_in, interactions
):
    every = len(DAYS) * EVENTS
    of_items = np.random.default_rng(0).permutation(every) % items
    of_clicks = np.random.default_rng(1).permutation(every) % one_in == 0
    drawn = zip(range(every), of_items.tolist(), of_clicks.tolist(), strict=True)

    def seen(event):
        number, item, click = next(drawn)
        own = {"userId": f"u{number % users}", "item.Id": item, "isClicked": click}
        return event | own | {"recentItems": []}

    spec = parse_spec(draft_spec(write_logs(tmp_path, change=seen), "shop").text, "drafted.yaml")
    assert spec.model.interactions == interactions


@pytest.mark.parametrize(("one_in", "interactions"), [(2, 16), (3, 0)])
def test_of_a_number_only_the_labels_that_are_there_make_ids_known(tmp_path, one_in, interactions):
    numbers = iter(range(len(DAYS) * EVENTS))

    def rated(event):
        number = next(numbers)
        stars = 1.5 + number % 7 / 2 if number % (one_in * 7) < 7 else None
        own = {"userId": f"u{number * 37 % 250}", "item.Id": number * 53 % 251, "rating": stars}
        return {name: event[name] for name in ("request.ID", "deviceType")} | own

    text = draft_spec(write_logs(tmp_path, shape=dict, change=rated), "rated").text
    spec = parse_spec(text, "drafted.yaml")
    assert list(spec.tasks) == ["rating"]
    assert spec.model.interactions == interactions


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


@pytest.mark.parametrize(
    ("positives", "negatives"), [(30, 2000), (120, 4000), (1500, 1500), (1760, 2440)]
)
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
