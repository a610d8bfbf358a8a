"""JSON lines."""

import json
import math

import pytest
from event_logs import FIELDS, event, read_lines

from components.daily_example_gen import readers
from components.daily_example_gen.fields import Field


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"age": "n/a"}, "field 'age': expected a number, got \"n/a\""),
        ({"age": True}, "field 'age': expected a number, got true"),
        ({"age": math.nan}, "field 'age': expected a finite float32, got NaN"),
        ({"age": math.inf}, "field 'age': expected a finite float32, got Infinity"),
        ({"age": 1e39}, "field 'age': expected a finite float32, got 1e+39"),
        ({"age": [1.0]}, "field 'age': expected a number, got [1.0]"),
        ({"clicked": 2}, "field 'clicked': expected 0 or 1, got 2"),
        ({"clicked": None}, "field 'clicked': missing, and it is required"),
        ({"clicked": "1"}, "field 'clicked': expected 0 or 1, got \"1\""),
        ({"user": 7}, "field 'user': expected a string, got 7"),
        ({"user": ""}, "field 'user': missing, and it is required"),
        ({"user": "\ud800"}, "field 'user': not valid UTF-8"),
        ({"event_id": None}, "field 'event_id': missing, and it is required"),
        ({"event_id": 1.5}, "field 'event_id': expected a string or an integer, got 1.5"),
        ({"hour": 1.5}, "field 'hour': expected an integer, got 1.5"),
        ({"hour": 2**63}, f"field 'hour': expected an integer, got {2**63}"),
        ({"topics": "a"}, "field 'topics': expected a list, got \"a\""),
        ({"topics": ["a", None]}, "field 'topics': a list element is missing"),
        ({"topics": ["a", 1]}, "field 'topics': expected a string, got 1"),
        ({"codes": [1, 1.5]}, "field 'codes': expected an integer, got 1.5"),
    ],
)
def test_wrong_value_is_quarantined_with_its_line_and_reason(tmp_path, changes, reason):
    events = [event(0), event(1), event(2, **changes), event(3)]
    rows, malformed, lines = read_lines(tmp_path, [json.dumps(e).encode() for e in events])
    assert [row["event_id"] for row in rows] == ["e0", "e1", "e3"]
    assert [(bad.line, bad.reason) for bad in malformed] == [(3, reason)]
    assert lines == 4


REPEATED = [
    ('"clicked": 0', "field 'clicked': it appears twice"),
    ('"\\u0063licked": 1', "field 'clicked': it appears twice"),
    ('"rating": null', "field 'rating': it appears twice"),
    ('"unknown": 1, "unknown": 2', None),
    ('"unknown": {"clicked": 1, "clicked": 0}', None),
]


@pytest.mark.parametrize(("added", "reason"), REPEATED)
def test_json_object_that_names_a_field_twice_is_malformed(tmp_path, added, reason):
    twice = json.dumps(event(1))[:-1] + f", {added}}}"
    lines = [json.dumps(event(0)).encode(), twice.encode(), json.dumps(event(2)).encode()]
    rows, malformed, _ = read_lines(tmp_path, lines)
    assert [row["event_id"] for row in rows] == (["e0", "e2"] if reason else ["e0", "e1", "e2"])
    assert [(bad.line, bad.reason) for bad in malformed] == ([(2, reason)] if reason else [])


def test_name_that_is_twice_in_an_object_on_the_way_to_a_field_is_malformed(tmp_path):
    fields = (*FIELDS[:1], Field("topic", "string", field="item.topic", path=("item", "topic")))
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"event_id": 1, "item": {"topic": "a", "topic": "b"}}\n'
        '{"event_id": 2, "item": {"topic": "a", "x": 1, "x": 2}}\n'
        '{"event_id": 3, "item": {"topic": "a"}, "item": {"topic": "b"}}\n'
    )
    (part,) = readers.read_events(str(path), fields)
    assert [(bad.line, bad.reason) for bad in part.malformed] == [
        (1, "field 'topic': it appears twice"),
        (3, "field 'item': it appears twice"),
    ]
    assert part.batch.column(1).to_pylist() == ["a"]


@pytest.mark.parametrize("turned", [1, -1])
def test_a_name_with_a_dot_may_begin_with_another_name(tmp_path, turned):
    def field(name):
        return Field(name.replace(".", "_"), "string", field=name, path=tuple(name.split(".")))

    more = [field("user"), field("user.team"), field("user.team.city"), field("item.topic")]
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"event_id": 1, "user": "u", "user.team": "t", "user.team.city": "c",'
        ' "item": {"topic": "a"}}\n'
    )
    (part,) = readers.read_events(str(path), (*FIELDS[:1], *more[::turned]))
    assert not part.malformed
    (row,) = part.batch.to_pylist()
    told = {"user": "u", "user_team": "t", "user_team_city": "c", "item_topic": "a"}
    assert {**row, **told} == row


def test_two_objects_on_a_line_and_one_object_on_two_lines_are_malformed(tmp_path):
    one = json.dumps(event(0)).encode()
    half = one.index(b', "hour"')
    rows, malformed, _ = read_lines(tmp_path, [one + one, one[:half], one[half:], one])
    assert len(rows) == 1
    assert [bad.line for bad in malformed] == [1, 2, 3]
