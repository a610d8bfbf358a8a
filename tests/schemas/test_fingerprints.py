"""What a change of a spec makes anew: encoded events, weights, what tasks are compared with."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import yaml

import schemas
from schemas.loading import load_spec, parse_spec
from schemas.spec import RankingSpec

DEMO = os.path.join(os.path.dirname(schemas.__file__), "demo.yaml")
EVENTS, MODEL, TASKS = "events_fingerprint", "model_fingerprint", "tasks_fingerprint"


def demo(*overrides: str) -> RankingSpec:
    return load_spec(DEMO, overrides)


def edited(change: Callable[[dict[str, Any]], Any]) -> RankingSpec:
    with open(DEMO, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    change(content)
    return parse_spec(yaml.safe_dump(content, sort_keys=False), "edited")


def changed(spec: RankingSpec) -> set[str]:
    base = demo()
    return {
        name for name in (EVENTS, MODEL, TASKS) if getattr(spec, name)() != getattr(base, name)()
    }


@pytest.mark.parametrize(
    ("override", "fingerprints"),
    [
        ("name=other", set()),
        ("training.learning_rate=0.9", set()),
        ("training.optimizer.name=adagrad", set()),
        ("training.window_days=9", set()),
        ("tasks.click.gate.min_auc=0.9", set()),
        ("tasks.click.loss_weight=3", set()),
        ("slices=[]", set()),
        ("serving.score=click", set()),
        ("validation.stop_at=NEVER", set()),
        ("model.dropout=0.2", set()),
        ("features.topic.max_drift=0.9", set()),
        ("features.recent_items.max_length=9", {EVENTS}),
        ("features.recent_items.too_long=malformed", {EVENTS}),
        ("features.topic.max_length=9", set()),
        ("tasks.watch_time.maximum=7200", {EVENTS}),
        ("features.topic.max_skew=null", set()),
        ("features.item_length.minimum=null", set()),
        ("features.item_length.maximum=1000", set()),
        ("events.id=impression", {EVENTS}),
        ("features.topic.field=item.Topic", {EVENTS}),
        ("tasks.click.field=isClicked", {EVENTS}),
        ("features.topic.required=true", {EVENTS}),
        ("tasks.click.optional=true", {EVENTS}),
        ("features.topic.buckets=128", {MODEL}),
        ("features.topic.embedding=4", {MODEL}),
        ("features.recent_items.pooling=sum", {MODEL}),
        ("features.item_length.scale=none", {MODEL}),
        ("features.item_length.default=1.0", {MODEL}),
        ("model.preset=tiny", {MODEL}),
        ("model.cross_layers=1", {MODEL}),
        ("tasks.like.wide_categories=true", {MODEL}),
        ("tasks.like.wide_categories=false", set()),
        ("features.hour.dtype=string", {EVENTS, MODEL}),
        ("features.hour.multivalued=true", {EVENTS, MODEL}),
        ("features.language={type: dense}", {EVENTS, MODEL}),
        ("tasks.watch_time.transform=none", {MODEL, TASKS}),
        ("tasks.click.label=clicked_once", {EVENTS, MODEL, TASKS}),
        (
            "tasks.follow={kind: binary, label: followed, gate: {min_auc: 0.5}}",
            {EVENTS, MODEL, TASKS},
        ),
    ],
)
def test_fingerprints_change_with_what_they_stand_for(override, fingerprints):
    assert changed(demo(override)) == fingerprints


@pytest.mark.parametrize("section", ["features", "tasks"])
def test_order_counts_for_the_weights_only(section):
    def turned(content):
        content[section] = dict(reversed(content[section].items()))

    assert changed(edited(turned)) == {MODEL}


def test_a_removed_feature_changes_events_and_model():
    assert changed(edited(lambda content: content["features"].pop("user_activity"))) == {
        EVENTS,
        MODEL,
    }


def test_fingerprints_do_not_depend_on_how_a_spec_is_written():
    assert changed(demo("model={shared: [256, 128], tower: [32], curves: 4, wide: true}")) == set()


@pytest.mark.parametrize(
    ("change", "events", "totals", "history", "model"),
    [
        ("days: 9", True, True, False, False),
        ("prior_strength: 9", True, True, False, False),
        ("tasks: [click]", True, False, False, False),
        ("max_ids: 9", True, True, False, True),
        ("serving: request", True, True, True, True),
    ],
)
def test_fingerprints_tell_what_a_change_of_history_makes_anew(
    change, events, totals, history, model
):
    before = demo("features.h={type: history, of: user_id}")
    after = demo(f"features.h={{type: history, of: user_id, {change}}}")
    assert (before.events_fingerprint() == after.events_fingerprint()) is events
    assert (before.totals_fingerprint("h") == after.totals_fingerprint("h")) is totals
    assert (before.history_fingerprint() == after.history_fingerprint()) is history
    assert (before.model_fingerprint() == after.model_fingerprint()) is model
    assert demo().events_fingerprint() == before.events_fingerprint()
