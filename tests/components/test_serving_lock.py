import threading
import time

import fake_gcs
import pytest

from components import serving_lock
from components.serving_lock import LOCK_FILE, locked
from schemas.errors import ServingStoreError

DIRECTORY = "gs://bucket/serving"


@pytest.fixture
def bucket(monkeypatch):
    """A Cloud Storage that Google's client talks to; holders poll, and give up, in no time."""
    with fake_gcs.served() as bucket:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", bucket.url)
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setattr(serving_lock, "_REMOTE_POLL_SECONDS", 0.05)
        yield bucket


@pytest.fixture(params=["folder", "gs://"])
def directory(request, tmp_path):
    if request.param == "folder":
        return str(tmp_path)
    request.getfixturevalue("bucket")
    return DIRECTORY


def test_only_one_holds_it_at_a_time(directory):
    holders, most = [], []

    def push():
        with locked(directory) as held:
            holders.append(1)
            most.append(len(holders))
            time.sleep(0.05)
            assert held()
            holders.pop()

    threads = [threading.Thread(target=push) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1, 1, 1, 1]


def test_it_is_given_back_after_an_error(directory):
    with pytest.raises(ValueError, match="disk"), locked(directory):
        raise ValueError("disk")
    with locked(directory) as held:
        assert held()


def test_a_dead_holders_object_is_taken_over_after_its_time_and_the_dead_one_knows(
    bucket, monkeypatch
):
    monkeypatch.setattr(serving_lock, "_WAIT_SECONDS", 0.3)
    with locked(DIRECTORY) as held:
        began = time.monotonic()
        with locked(DIRECTORY) as taken:
            assert time.monotonic() - began > 0.3
            assert taken()
            assert not held()
        assert not held()
    assert bucket.objects == {}


def test_who_lost_it_leaves_the_object_of_who_took_it(bucket, monkeypatch):
    monkeypatch.setattr(serving_lock, "_WAIT_SECONDS", 0.1)
    with locked(DIRECTORY):
        second = locked(DIRECTORY)
        held = second.__enter__()
    assert held()
    second.__exit__(None, None, None)


def test_a_holder_that_changes_is_waited_for(bucket, monkeypatch):
    # Far above a change's 0.2 s, as a busy machine may stall, and below what they take in all.
    monkeypatch.setattr(serving_lock, "_WAIT_SECONDS", 1.5)
    name = f"serving/{LOCK_FILE}"
    bucket.objects[name] = (1000, "another's")
    done = threading.Event()

    def others():
        for generation in range(1001, 1011):
            time.sleep(0.2)
            bucket.objects[name] = (generation, "yet another's")
        del bucket.objects[name]
        done.set()

    threading.Thread(target=others).start()
    with locked(DIRECTORY):
        assert done.is_set()


def test_an_attempt_whose_answer_was_lost_knows_its_own_object(bucket, monkeypatch):
    answer = bucket.answer

    def lossy(method, path, query, body):
        status, content = answer(method, path, query, body)
        if method == "POST" and status == 200:
            return 503, {}
        return status, content

    monkeypatch.setattr(bucket, "answer", lossy)
    with locked(DIRECTORY) as held:
        assert held()


def test_a_file_system_without_a_lock_is_refused():
    refused = pytest.raises(ServingStoreError, match="hdfs://there/serving: no lock is known")
    with refused, locked("hdfs://there/serving"):
        pass
