"""A small log of a shop, in each format, for tests of `init`."""

import csv
import datetime
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

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


def role_of(draft, source):
    (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
    return guess.role


def remark_on(draft, source):
    (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
    return guess.remark


def why_of(draft, source):
    (guess,) = [guess for guess in draft.guesses if guess.field.source == source]
    return guess.why


def number_of(event):
    return int(event["request.ID"].partition("-")[2])
