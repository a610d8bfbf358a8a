import datetime
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from components.daily_example_gen.day_store import DayLogs, LogFile
from components.daily_example_gen.fields import Field
from components.daily_example_gen.sampling import read_sample

EVENTS = 40_000
FIELDS = (Field("id", "int"), Field("x", "number"), Field("word", "string"))


def columns():
    rng = np.random.default_rng(0)
    ids, words = np.arange(EVENTS), rng.choice(["a", "bb", "some longer word"], EVENTS)
    return {"id": ids.tolist(), "x": rng.normal(size=EVENTS).tolist(), "word": words.tolist()}


def as_json(table):
    return "".join(json.dumps(event) + "\n" for event in table.to_pylist()).encode()


def as_csv(table):
    return table.to_pandas().to_csv(index=False).encode()


def as_parquet(table):
    target = io.BytesIO()
    pyarrow.parquet.write_table(table, target)
    return target.getvalue()


@pytest.mark.parametrize("budget", [1 << 15, 1 << 19, 1 << 22])
@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".jsonl", as_json),
        (".csv", as_csv),
        (".jsonl.gz", lambda table: gzip.compress(as_json(table))),
        (".csv.gz", lambda table: gzip.compress(as_csv(table))),
        (".parquet", as_parquet),
    ],
)
def test_part_of_a_day_tells_how_many_events_the_day_has(tmp_path, suffix, write, budget):
    path = tmp_path / f"part-0{suffix}"
    path.write_bytes(write(pa.table(columns())))
    file = LogFile(path.name, str(path), path.stat().st_size, "1")
    logs = DayLogs(datetime.date(2026, 1, 5), str(tmp_path), (file,), ())
    sample = read_sample(logs, FIELDS, budget)
    assert sample.day_events == pytest.approx(EVENTS, rel=0.1)
    assert (sample.share == 1) == (sample.events.num_rows == EVENTS)
