import os

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given, settings

import schemas
from schemas.errors import ExitCode, SpecError
from schemas.loading import load_spec, parse_overrides, parse_spec
from schemas.spec import RankingSpec
from schemas.training import PRESETS

DEMO = os.path.join(os.path.dirname(schemas.__file__), "demo.yaml")
BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 99))
MERGED_BOMB = "a0: &a0 {k: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 99)
)


def demo(*overrides: str) -> RankingSpec:
    return load_spec(DEMO, overrides)


def without(path: str) -> RankingSpec:
    with open(DEMO, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    *parents, last = path.split(".")
    node = content
    for key in parents:
        node = node[key]
    del node[last]
    return parse_spec(yaml.safe_dump(content, sort_keys=False), "edited")


def test_demo_has_the_six_tasks():
    spec = demo()
    assert list(spec.tasks) == ["click", "long_view", "like", "share", "watch_time", "rating"]
    assert [task.kind for task in spec.tasks.values()] == ["binary"] * 4 + ["regression"] * 2
    assert set(spec.categorical) | set(spec.dense) | set(spec.history) >= set(spec.features)
    assert spec.table_of("recent_items") == spec.table_of("item_id") == "item_id"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.learning_rat=1",
            "training.learning_rat: no such field; did you mean 'learning_rate'?",
        ),
        ("colour=red", "colour: no such field"),
        (
            "training.batch_size=0",
            "training.batch_size: must be auto, or a number of at least 1, got 0",
        ),
        ("training.epochs=-1", "training.epochs: must be auto, or a number that is not negative"),
        ("training.batch_size=many", "training.batch_size: must be a whole number, got 'many'"),
        ("training.optimizer.name=sgd", "training.optimizer.name: must be 'clippy_adagrad', "),
        ("training.optimizer={name: gc_adam, thresholds: {mu: 1}}", "no threshold 'mu': it takes"),
        (
            "training.optimizer.thresholds={absolute_threshold: 1}",
            "write 'absolute_threshold' beside 'name'",
        ),
        ("training.optimizer={name: adam, thresholds: {mu: 1}}", "adam has no threshold 'mu'"),
        (
            "training.optimizer={name: agc_adagrad, thresholds: {clip_factor: -1}}",
            "training.optimizer.thresholds.clip_factor: must be at least 0",
        ),
        (
            "training.optimizer={name: adam, delayed_accumulator: true}",
            "is for Adagrad, not for adam",
        ),
        ("tasks.click.gate.min_auc=1.5", "tasks.click.gate.min_auc: must be at most 1, got 1.5"),
        ("tasks.click.gate=null", "tasks.click.gate: must be a mapping of fields, got no"),
        ("tasks.click.kind=ternary", "tasks.click.kind: must be 'binary' or 'regression'"),
        ("tasks.rating.gate.min_auc=0.6", "tasks.rating.gate.min_auc: no such field"),
        ("tasks.rating.wide_categories=true", "tasks.rating.wide_categories: no such field"),
        ("features.topic.buckets=1", "features.topic.buckets: must be at least 2"),
        ("features.topic.buckets=null", "features.topic: needs both 'buckets' and 'embedding'"),
        ("features.topic.table=device", "features.topic: takes 'buckets' and 'embedding' from"),
        ("features.recent_items.table=hours", "features.recent_items.table: 'hours' is not a cat"),
        ("features.recent_items.table=item_length", "'item_length' is not a categorical feature"),
        ("features.Topic={type: dense}", "features.Topic"),
        ("features.clicked={type: dense}", "'clicked' is already features.clicked"),
        ("features.event_id={type: dense}", "'event_id' is already events.id"),
        ("features.age={type: dense, field: topic}", "age: the event field 'topic' is already fe"),
        ("features.age={type: dense, field: event_id}", "event field 'event_id' is already events"),
        ("features.clicked={type: dense, field: x}", "the name 'clicked' is already features.c"),
        ("tasks.like.field=clicked", "tasks.like.label: the event field 'clicked' is already"),
        ('features.topic.field=""', "features.topic.field: "),
        ('events.id="a\\n"', "events.id: "),
        ("tasks.like.label=clicked", "tasks.like.label: the event field 'clicked' is already"),
        ("slices=[item_length]", "slices: 'item_length' is not a single-valued categorical"),
        ("slices=[recent_items]", "slices: 'recent_items' is not a single-valued categorical"),
        ("tasks.click.gate.slices={age: {min_auc: 0.5}}", "tasks.click.gate.slices: 'age' is no"),
        (
            "features.h={type: history, of: recent_items}",
            "features.h.of: 'recent_items' is not a single",
        ),
        (
            "features.h={type: history, of: [user_id, user_id]}",
            "features.h.of: 'user_id' appears twice",
        ),
        (
            "features.h={type: history, of: user_id, tasks: [clik]}",
            "features.h.tasks: 'clik' is not a task",
        ),
        ("features.h={type: history, of: []}", "features.h.of: must hold at least 1"),
        (
            "features.h={type: history, of: user_id, prior_strength: 0}",
            "prior_strength: must be more",
        ),
        ("model.preset=huge", "model: preset 'huge' does not exist; choose from tiny, laptop"),
        ("model={shared: []}", "model.shared: "),
        ("model.dropout=1.0", "model.dropout: must be less than 1, got 1.0"),
        ("training.min_window_days=4", "training: 'min_window_days' is larger"),
        ("serving.score=click + clik", "serving.score: unknown name 'clik'"),
        ("tasks.score={kind: binary, label: x, gate: {min_auc: 0.5}}", "tasks.score: the name is"),
        (
            "tasks.all_finite={kind: binary, label: x, gate: {min_auc: 0.5}}",
            "tasks.all_finite: the name is taken by the gate",
        ),
        ("serving.score=click + 1 / 0", "serving.score: '1 / 0' is not a finite number"),
        ("model.preset=[tiny]", "model: preset ['tiny'] does not exist"),
        ("training.seed=-1", "training.seed: must be at least 0, got -1"),
        ("training.seed=4294967296", "training.seed: must be less than 4294967296"),
        ("training.learning_rate=.inf", "training.learning_rate: must be a finite number"),
        ("features.item_length.default=.nan", "item_length.default: must be a finite"),
        ("features.item_length={type: dense, minimum: 2, maximum: 1}", "'minimum' is larger"),
        ("tasks.click.gate.calibration=[1.2, 0.8]", "gate.calibration: the lower bound is larger"),
        ("tasks.click.gate.calibration=[.nan, 1]", "gate.calibration.0: must be a finite"),
        ("validation.severity={DRIFT: FATAL}", "validation.severity.DRIFT: "),
        ("name=" + 64 * "a", "name: at most 63 characters, got 64"),
        (
            f"features.{129 * 'a'}={{type: dense}}",
            "a name has at most 128 characters, this one has 129",
        ),
        ("features.self={type: dense}", "features.self: the name is taken by the exported model"),
        ("features.userId={type: dense}", "features.userId: 'userId' is not a name: lower-case"),
        ("tasks.click.label=isClicked", "tasks.click.label: 'isClicked' is not a name: lower-case"),
        ("training.window_days=1e12", "training.window_days: must be a whole number, got '1e12'"),
        ("training.window_days=1000000000000", "training.window_days: must be at most 3660, got 1"),
        ("training.min_window_days=4000", "training.min_window_days: must be at most 3660"),
        ("training.epochs=10000000000", "training.epochs: must be at most 4294967295, got 10000"),
        ("features.item_length.maximum=1e+300", "item_length.maximum: must be within 3.4e+38"),
        ("model.shared=[1000000]", "model.shared.0: must be at most 65536, got 1000000"),
        ("features.topic.embedding=1000000", "features.topic.embedding: must be at most 4096"),
        (
            "training.warm_start=perhaps",
            "training.warm_start: must be true or false, got 'perhaps'",
        ),
        ("name=7", "name: must be text, got 7"),
        ("slices=device", "slices: must be a list, got 'device'"),
        ("features.topic.type=null", "features.topic.type: must be 'categorical' or 'dense'"),
        ("features.topic={buckets: 3}", "features.topic.type: required, and missing"),
        ("features={}", "features: must hold at least 1"),
        ("name=My Ranker", "name: must be lower-case letters, digits and -"),
    ],
)
def test_an_error_names_file_and_field(override, message):
    with pytest.raises(SpecError) as error:
        demo(override)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{DEMO}: ") for line in lines)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["a" * 63, "a-1"])
def test_names_up_to_the_limit_are_taken(name):
    assert demo(f"name={name}").name == name
    feature = "a" * 128
    assert feature in demo(f"features.{feature}={{type: dense}}").features


def test_what_does_not_fit_together_is_listed_beside_what_is_malformed():
    with pytest.raises(SpecError) as error:
        demo(
            "training.batch_size=0",
            "features.topic.buckets=1",
            "features.recent_items.table=hours",
            "features.self={type: dense}",
            "tasks.like.label=clicked",
            "tasks.share.gate.min_auc=2",
            "slices=[age]",
            "serving.score=clik",
        )
    told = [line.removeprefix(f"{DEMO}: ").split(":")[0] for line in str(error.value).splitlines()]
    assert told == [
        "features.topic.buckets",
        "tasks.share.gate.min_auc",
        "training.batch_size",
        "features.recent_items.table",
        "features.self",
        "tasks.like.label",
        "slices",
        "serving.score",
    ]


def test_a_linear_model_of_categories_needs_one_of_few_rows():
    asked = "tasks.like.wide_categories=true"
    large = [f"features.{n}.buckets=513" for n, f in demo().categorical.items() if f.buckets]
    assert demo(*large[:-1], asked).tasks["like"].wide_categories
    with pytest.raises(SpecError, match="wide_categories: no categorical feature has a table"):
        demo(*large, asked)


def test_a_malformed_part_is_not_said_to_be_absent_too():
    with pytest.raises(SpecError) as error:
        demo("features.item_id.buckets=0", "features.device.buckets=0", "tasks.click.gate=1")
    # `recent_items` shares the table of the one, the gates are sliced by the other, and the
    # score is of the task.
    assert len(str(error.value).splitlines()) == 3


def test_all_errors_are_listed_at_once():
    with pytest.raises(SpecError) as error:
        demo("training.batch_size=0", "serving.keep_versions=0", "colour=red")
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("path", ["name", "features", "tasks", "model", "serving", "serving.score"])
def test_a_missing_required_field_is_named(path):
    with pytest.raises(SpecError, match=f"edited: {path}: required, and missing"):
        without(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping"),
        ("- a\n- b\n", "expected a mapping"),
        ("a: [1, 2", "not valid YAML"),
        ("features: {a: {type: dense}}\n\tb: 1", "not valid YAML"),
        ("day: 2026-13-45", "not valid YAML: month must be in"),
        ("name: a\nname: b", "not valid YAML: the field 'name' appears twice(.|\n)*line 2"),
        ("a: &a\n  b: *a\n", "a value that holds itself, line 1"),
        ("a: &a [*a]", "a value that holds itself, line 1"),
        (BOMB, r"its aliases \(\*name\) stand for more than 100000 values"),
        (MERGED_BOMB, r"its aliases \(\*name\) stand for more than 100000 values"),
        ("a: " + "x" * 2**20, "more than 1 MiB of YAML"),
        ("a: " + "[" * 5000, "not valid YAML"),
        ("a: {b: {c: 1, d: 2, c: 3}}", "not valid YAML: the field 'c' appears twice"),
    ],
)
def test_a_document_that_is_no_mapping_is_refused(text, message):
    with pytest.raises(SpecError, match=f"broken.yaml: {message}"):
        parse_spec(text, "broken.yaml")


def test_an_unreadable_file_is_named(tmp_path):
    absent = str(tmp_path / "absent.yaml")
    with pytest.raises(SpecError, match=r"absent\.yaml: cannot be read") as error:
        load_spec(absent)
    assert error.value.exit_code is ExitCode.BAD_SPEC
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(SpecError, match=r"binary\.yaml: cannot be read"):
        load_spec(str(binary))


def test_overrides_apply_in_order_and_are_yaml():
    spec = demo(
        "training.learning_rate=0.2",
        "training.learning_rate = 0.3",
        "features.topic.max_drift=null",
        "slices=[topic]",
        "tasks.click.gate.slices.topic.min_auc=0.5",
        "events.id=impression",
    )
    assert spec.training.learning_rate == 0.3
    assert spec.categorical["topic"].max_drift is None
    assert spec.slices == ("topic",)
    assert spec.tasks["click"].gate.slices["topic"].min_auc == 0.5
    assert spec.events.id == "impression"
    assert spec.training.batch_size == demo().training.batch_size


@pytest.mark.parametrize("override", ["training.seed", "=1", ".seed=1", "training..seed=1", ""])
def test_an_override_that_is_no_assignment_is_refused(override):
    with pytest.raises(SpecError, match=r"expected FIELD\.FIELD=VALUE"):
        demo(override)


def test_an_override_below_a_value_is_refused():
    with pytest.raises(SpecError, match=r"'name.first=x': name has no fields"):
        demo("name.first=x")


def test_an_override_that_is_no_yaml_is_refused():
    with pytest.raises(SpecError, match=r"override 'slices=\[device': not valid YAML"):
        demo("slices=[device")
    with pytest.raises(SpecError, match="override 'name=2026-13-45': not valid YAML: month"):
        demo("name=2026-13-45")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_expanded(preset):
    assert demo(f"model={{preset: {preset}}}").model == PRESETS[preset]


def test_fields_beside_a_preset_win():
    spec = demo("model={preset: large_dcn, dropout: 0.1, tower: [8]}")
    assert spec.model.shared == (4096,) * 4
    assert (spec.model.cross_layers, spec.model.dropout, spec.model.tower) == (1, 0.1, (8,))


@pytest.mark.parametrize(
    ("text", "overrides"),
    [("[]", []), ('["a.b=1", "slices=[x]"]', ["a.b=1", "slices=[x]"])],
)
def test_overrides_are_a_json_list_of_assignments(text, overrides):
    assert parse_overrides(text) == overrides


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.epochs=2", "expected a JSON list .* got training.epochs=2"),
        ("[1]", r"expected a JSON list .* got \[1\]"),
        ("null", "expected a JSON list .* got null"),
        ("", "expected a JSON list"),
        ("[" * 100_000, "expected a JSON list"),
        ('["training.epochs"]', r"'training.epochs': expected FIELD\.FIELD=VALUE"),
        ('["slices=[x"]', r"'slices=\[x': not valid YAML"),
    ],
)
def test_other_overrides_are_refused(text, message):
    with pytest.raises(SpecError, match=message):
        parse_overrides(text)


def test_aliases_stand_for_what_they_name():
    text = (
        "name: t\nfeatures:\n  a: &id {type: categorical, buckets: 9, embedding: 2}\n  b: *id\n"
        "  c: {<<: *id, buckets: 5}\ntasks:\n"
        "  t: {kind: binary, label: l, gate: {min_auc: 0.5}}\n"
        "model: {preset: tiny}\nserving: {score: t}\n"
    )
    spec = parse_spec(text, "aliases")
    assert [feature.buckets for feature in spec.categorical.values()] == [9, 9, 5]


def test_resolved_yaml_reads_back_as_the_same_spec():
    spec = demo("training.learning_rate=0.25", "model={preset: small, dropout: 0.5}")
    again = parse_spec(spec.to_yaml(), "resolved")
    assert again == spec
    assert list(again.features) == list(spec.features)
    assert list(again.tasks) == list(spec.tasks)
    assert again.to_yaml() == spec.to_yaml()


@settings(max_examples=25)
@given(
    rate=st.floats(1e-8, 1e3),
    epsilon=st.floats(1e-20, 1.0),
    seed=st.integers(0, 2**32 - 1),
    layers=st.lists(st.integers(1, 4096), min_size=1, max_size=4),
)
def test_numbers_survive_the_round_trip(rate, epsilon, seed, layers):
    spec = demo(
        f"training.learning_rate={rate!r}",
        f"training.optimizer.epsilon={epsilon!r}",
        f"training.seed={seed}",
        f"model={{shared: {layers}}}",
    )
    assert spec.training.learning_rate == rate
    assert parse_spec(spec.to_yaml(), "resolved") == spec


@pytest.mark.parametrize(
    ("days", "exposures", "share"), [(1, 3.0, 0.0), (7, 1.0, 0.0), (7, 1.6, 0.1), (3, 9.0, 1.0)]
)
def test_replay_share_gives_the_exposures(days, exposures, share):
    spec = demo(
        f"training.window_days={days}",
        "training.min_window_days=1",
        f"training.exposures={exposures}",
    )
    assert spec.training.replay_share == pytest.approx(share)


@pytest.mark.parametrize(
    ("events", "batch"),
    [(1, 32), (3_000, 32), (20_000, 64), (400_000, 1024), (5_000_000, 4096), (10**9, 4096)],
)
def test_auto_makes_a_day_many_steps_long(events, batch):
    training = demo("training.batch_size=auto").training.fitted(events, warm=False)
    assert training.batch_size == batch
    assert training.optimizer.initial_accumulator == pytest.approx(8 / batch**2)


def test_auto_takes_a_second_pass_at_a_cold_start_only():
    training = demo().training
    assert [training.fitted(20_000, warm).epochs for warm in (False, True)] == [2, 1]


def test_numbers_that_are_given_stay():
    numbers = ["training.batch_size=500", "training.epochs=3"]
    spec = demo(*numbers, "training.optimizer.initial_accumulator=0.1")
    assert spec.fitted(20_000, warm=True) == spec


def test_auto_survives_a_round_trip_through_yaml():
    spec = demo("training.batch_size=auto")
    assert "batch_size: auto" in spec.to_yaml()
    assert parse_spec(spec.to_yaml(), "copy") == spec
    fitted = spec.fitted(20_000, warm=True)
    assert parse_spec(fitted.to_yaml(), "copy") == fitted


def test_embeddings_learn_five_times_as_fast_unless_told_otherwise():
    assert demo("training.learning_rate=0.2").training.embedding_rate == pytest.approx(1.0)
    assert demo("training.embedding_learning_rate=0.3").training.embedding_rate == 0.3


def test_history_stands_for_a_count_and_a_rate_a_task():
    spec = demo(
        "features.user_history={type: history, of: user_id}",
        "features.pair_history={type: history, of: [user_id, item_id], tasks: [click]}",
    )
    rates = [f"user_history__{task}__rate" for task in spec.tasks]
    assert list(spec.history_columns("user_history")) == ["user_history__count", *rates]
    assert list(spec.inputs)[-2:] == ["pair_history__count", "pair_history__click__rate"]
    columns = {*spec.history_columns("user_history"), *spec.history_columns("pair_history")}
    assert columns <= set(spec.dense)
    assert parse_spec(spec.to_yaml(), "again") == spec
