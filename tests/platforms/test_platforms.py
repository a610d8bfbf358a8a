"""What one platform wrote is read by the others; `written.py` says how it came to be."""

import tarfile

import numpy as np
import pytest
import tensorflow as tf
import written
from written import FIRST, FOLDER, HERE, SECOND, SERVED, STATES, spec_of

from components import serving_store
from components.daily_example_gen.day_store import DayStore, list_logs
from pipeline import lineage
from pipeline.workspace import Workspace
from schemas.errors import TrainingError
from trainer_module.training_state import restore_state

PREFIX = "written-by-"
WRITERS = sorted(path.name.partition(".tar")[0] for path in FOLDER.glob(f"{PREFIX}*"))
OTHERS = [writer for writer in WRITERS if writer != PREFIX + HERE]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """Returns what unpacks a writer's files, each once."""
    folders = {}

    def unpack(writer):
        if writer not in folders:
            folders[writer] = tmp_path_factory.mktemp(writer)
            with tarfile.open(FOLDER / f"{writer}.tar.xz") as tar:
                tar.extractall(folders[writer])
        return folders[writer]

    return unpack


@pytest.fixture(params=WRITERS)
def root(request, unpacked):
    return unpacked(request.param)


@pytest.fixture
def seen(root):
    """What the writer saw, by what it is of."""
    with np.load(root / "seen.npz") as arrays:

        def of(kind):
            prefix = f"{kind}/"
            return {
                name.removeprefix(prefix): arrays[name]
                for name in arrays.files
                if name.startswith(prefix)
            }

        yield of


def test_every_platform_has_written():
    assert len(OTHERS) == len(WRITERS) - 1 >= 1, "run `make platforms`"


def same(actual, expected):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == value.dtype
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("kind", STATES)
def test_weights_and_slots_are_read_bit_by_bit(root, seen, kind):
    model, optimizer = written.trainee(kind)
    before = written.values(model, optimizer)
    restore_state(model, optimizer, str(root / "states" / kind))
    restored = written.values(model, optimizer)
    assert not any(np.array_equal(before[name], value) for name, value in restored.items())
    same(restored, seen(kind))


def test_state_of_the_served_version_is_read_bit_by_bit(root, seen):
    model, optimizer = written.trainee("clippy_adagrad")
    restore_state(model, optimizer, written.served_state(root))
    same(written.values(model, optimizer), seen(SERVED))


def test_state_of_another_optimizer_is_refused_with_the_reason(root):
    model, optimizer = written.trainee("adam")
    with pytest.raises(TrainingError, match="training state cannot be restored"):
        restore_state(model, optimizer, str(root / "states" / "adagrad"))


def test_served_version_answers_as_it_did_where_it_was_made(root, seen):
    expected = seen("answers")
    answers = written.answers(root)
    assert answers.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(answers[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_served_version_is_whole_and_fits_the_spec(root):
    version = serving_store.served_version(Workspace(str(root)).serving)
    assert serving_store.damage(version) == []
    assert version.info.model_fingerprint == spec_of().model_fingerprint()
    assert version.info.tasks_fingerprint == spec_of().tasks_fingerprint()


def test_stored_days_are_found_by_their_logs(root):
    store = DayStore(Workspace(str(root)).day_store, spec_of().events_fingerprint())
    for day in (written.day(FIRST) - written.ONE_DAY, written.day(FIRST)):
        stored = store.find(list_logs(str(root / "logs"), day))
        assert stored is not None, "run `make platforms` on each platform: the format has changed"
        assert stored.manifest.events > 100


def test_stored_events_are_the_same_on_every_platform(unpacked):
    def events(writer):
        return {
            name: [tf.train.Example.FromString(record) for record in records]
            for name, records in written.shards(unpacked(writer)).items()
        }

    here, *others = map(events, WRITERS)
    assert sum(map(len, here.values())) > 300
    for other in others:
        assert other == here


def test_run_of_the_first_day_is_known(root):
    (run,) = lineage.list_runs(lineage.open_store(Workspace(str(root)).metadata_path))
    assert (run.run_date, run.outcome, run.version) == (FIRST, "pushed", 1)
    assert run == lineage.newest_run(lineage.open_store(Workspace(str(root)).metadata_path))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("writer", OTHERS)
def test_next_day_goes_on_from_what_the_other_wrote(writer, unpacked):
    root = unpacked(writer)
    stored = {path: path.stat().st_ino for path in (root / "day_store").rglob("shard-*.gz")}
    assert written.run_day(root, SECOND) == 0
    runs = lineage.list_runs(lineage.open_store(Workspace(str(root)).metadata_path))
    assert [(run.run_date, run.outcome, run.version) for run in runs] == [
        (FIRST, "pushed", 1),
        (SECOND, "pushed", 2),
    ]
    assert runs[1].start == "warm start from version 1, trained through 2026-01-01"
    assert runs[1].baseline == "compared with the served version 1"
    assert {path: path.stat().st_ino for path in stored} == stored
