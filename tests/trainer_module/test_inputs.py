"""What each of several workers reads of the training split."""

import collections
import gzip
import pathlib

import pytest
import tensorflow as tf
from events import encode, make_events, tiny_spec

from trainer_module.inputs import training_batches

BATCH = 24


def of_epochs(epochs):
    settings = (f"training.batch_size={BATCH}", "training.shuffle_events=100")
    return tiny_spec(*settings, f"training.epochs={epochs}")


SPEC = of_epochs(1)


def write(folder, sizes):
    """Writes files of so many events each; an event's price names its file and its place there."""
    files = []
    for number, size in enumerate(sizes):
        files.append(str(folder / f"{number:02d}.gz"))
        options = tf.io.TFRecordOptions(compression_type="GZIP")
        with tf.io.TFRecordWriter(files[-1], options) as writer:
            for place, event in enumerate(make_events(size)):
                writer.write(encode({**event, "price": [float(1000 * number + place)]}))
    return files


def prices(files, spec=SPEC, **share):
    """The prices of each part that a worker gives out."""
    parts = training_batches(files, spec, parse=tf.identity, **share)
    return [[price(record) for record in part] for part in parts.as_numpy_iterator()]


def price(record):
    features = tf.train.Example.FromString(record).features
    return int(features.feature["price"].float_list.value[0])


def files_in(parts):
    return {price // 1000 for part in parts for price in part}


@pytest.mark.parametrize(
    ("sizes", "workers"), [([240] * 4, 2), ([240] * 7, 3), ([240] * 2, 4), ([480], 3)]
)
def test_workers_together_read_each_event_once_an_epoch(tmp_path, sizes, workers):
    spec = of_epochs(2)
    files = write(tmp_path, sizes)
    shares = [prices(files, spec, worker=k, workers=workers) for k in range(workers)]
    counted = collections.Counter(price for share in shares for part in share for price in part)
    every = {1000 * number + place for number, size in enumerate(sizes) for place in range(size)}
    assert counted == dict.fromkeys(every, 2)
    # And each gives an equal part of a batch.
    assert {len(part) for share in shares for part in share} == {BATCH // workers}
    assert len({len(share) for share in shares}) == 1


def test_worker_opens_only_its_own_files_and_those_that_do_not_go_round(tmp_path):
    files = write(tmp_path, [48] * 8)
    shares = [files_in(prices(files, worker=k, workers=3)) for k in range(3)]
    common = set.intersection(*shares)
    assert [len(share) for share in shares] == [4, 4, 4]
    assert len(common) == 2
    for worker, share in enumerate(shares):
        intact = {number: pathlib.Path(files[number]).read_bytes() for number in range(8)}
        for number in set(range(8)) - share:
            pathlib.Path(files[number]).write_bytes(b"this is no gzip")
        assert files_in(prices(files, worker=worker, workers=3)) == share
        for number, content in intact.items():
            pathlib.Path(files[number]).write_bytes(content)


def test_files_are_dealt_anew_each_epoch(tmp_path):
    files = write(tmp_path, [48] * 8)
    epochs = 4
    spec = of_epochs(epochs)
    parts = prices(files, spec, worker=0, workers=2)
    each = len(parts) // epochs
    dealt = [files_in(parts[epoch * each : (epoch + 1) * each]) for epoch in range(epochs)]
    assert [len(files) for files in dealt] == [4] * epochs
    assert len(set(map(frozenset, dealt))) > 1


def test_worker_goes_on_where_it_was(tmp_path):
    files = write(tmp_path, [240] * 3)
    share = {"worker": 1, "workers": 2}
    every = prices(files, **share)
    assert prices(files, **share, leave_out=[(2, 4), (5, 6)], skip=1) == [
        every[1],
        every[4],
        *every[6:],
    ]


def test_part_of_a_worker_is_shared_by_its_replicas(tmp_path):
    files = write(tmp_path, [240] * 3)
    whole = prices(files, worker=1, workers=2)
    halves = prices(files, worker=1, workers=2, replicas=2)
    assert [len(half) for half in halves] == [BATCH // 4] * 2 * len(whole)
    assert [one + other for one, other in zip(halves[::2], halves[1::2], strict=True)] == whole


def test_worker_without_a_whole_part_gives_none(tmp_path):
    files = write(tmp_path, [5])
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    assert prices([*files, str(tmp_path / "empty.gz")], worker=0, workers=2) == []
