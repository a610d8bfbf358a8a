"""A small log of four days, and its ingestion, for the tests of DailyExampleGen."""

import datetime
import json
import os
import shutil

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.localfilesystem import LocalFileSystem

from components.daily_example_gen import ingest
from components.daily_example_gen.day_store import DayStore, list_logs
from components.daily_example_gen.executor import make_examples
from components.daily_example_gen.fields import event_fields
from components.run_plan import RunPlan
from schemas.loading import parse_spec

SPEC = """
name: test
events: {max_quarantined: 0.1}
features:
  user: {type: categorical, buckets: 10, embedding: 2, required: true}
  topics: {type: categorical, multivalued: true, buckets: 10, embedding: 2}
  hour: {type: categorical, dtype: int, buckets: 24, embedding: 2}
  age: {type: dense}
tasks:
  click: {kind: binary, label: clicked, gate: {min_auc: 0.5}}
  rate: {kind: regression, label: rating, optional: true, gate: {max_rmse: 9}}
model: {preset: tiny}
training: {window_days: 3, min_window_days: 2, exposures: 1.5}
serving: {score: click}
"""
DAYS = [datetime.date(2026, 1, day) for day in range(1, 5)]
RUN_DATE = DAYS[-1]


def make_pipeline():
    return beam.Pipeline(argv=["--runner=DirectRunner", "--direct_running_mode=in_memory"])


def no_pipeline():
    raise AssertionError("something was parsed")


def event(number, **changes):
    return {
        "event_id": f"e{number}",
        "user": f"u{number}",
        "topics": ["a", "b"],
        "hour": number % 24,
        "age": 1.5,
        "clicked": number % 2,
        "rating": 2.5 if number % 5 == 0 else None,
        **changes,
    }


def write_day(logs, date, lines, name="part-0.jsonl"):
    directory = logs / date.isoformat()
    directory.mkdir(parents=True, exist_ok=True)
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    (directory / name).write_text(text)
    return directory / name


def plan(base_trained_through=None, window=None, **overrides):
    spec = parse_spec(SPEC, "test", [f"{k.replace('__', '.')}={v}" for k, v in overrides.items()])
    return RunPlan(
        spec=spec,
        run_date=RUN_DATE,
        window=tuple(DAYS[:-1] if window is None else window),
        base_version=None if base_trained_through is None else 1,
        base_trained_through=base_trained_through,
    )


def run(plan, root, out=None, make_pipeline=no_pipeline, rates=None):
    out = out or root / "out"
    return make_examples(
        plan,
        str(root / "logs"),
        str(root / "store"),
        {"train": str(out / "Split-train"), "eval": str(out / "Split-eval")},
        str(out / "quarantine"),
        make_pipeline,
        rates_path=rates and str(rates),
    )


def records(directory):
    files = sorted(map(str, directory.glob("*")))
    raw = tf.data.TFRecordDataset(files, compression_type="GZIP") if files else []
    return [tf.train.Example.FromString(record.numpy()).features.feature for record in raw]


def users(directory):
    return [record["user"].bytes_list.value[0].decode() for record in records(directory)]


def stored(root, date):
    store = DayStore(str(root / "store"), plan().spec.events_fingerprint())
    return store.find(list_logs(str(root / "logs"), date))


def ingest_day(root, date, make_pipeline=make_pipeline, scheme=""):
    spec = plan().spec
    return ingest.ingest_days(
        f"{scheme}{root}/logs",
        [date],
        event_fields(spec),
        DayStore(f"{scheme}{root}/store", spec.events_fingerprint()),
        make_pipeline,
    ).get(date)


class ObjectStore(LocalFileSystem):
    """`objects://<local path>`: no directories to make, no renaming of directories."""

    @classmethod
    def scheme(cls):
        return "objects"

    @staticmethod
    def _key(url):
        return url.removeprefix("objects://")

    def _list(self, dir_or_prefix):
        for directory, _, names in os.walk(self._key(dir_or_prefix)):
            for path in (os.path.join(directory, name) for name in names):
                url = "objects://" + path
                yield FileMetadata(url, os.path.getsize(path), os.path.getmtime(path))

    def _path_open(self, path, *args, **kwargs):
        return super()._path_open(self._key(path), *args, **kwargs)

    def create(self, path, *args, **kwargs):
        return super().create(self._key(path), *args, **kwargs)

    def exists(self, path):
        return os.path.isfile(self._key(path)) or path.endswith("/")

    def rename(self, source_file_names, destination_file_names):
        self.copy(source_file_names, destination_file_names)
        self.delete(source_file_names)

    def copy(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            assert os.path.isfile(self._key(source))
            os.makedirs(os.path.dirname(self._key(destination)), exist_ok=True)
            shutil.copy(self._key(source), self._key(destination))

    def delete(self, paths):
        for path in paths:
            os.remove(self._key(path))
