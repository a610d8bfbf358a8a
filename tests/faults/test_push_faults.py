"""Faults in the middle of a push or rollback: full disks, dying processes, odd folders."""

import concurrent.futures
import contextlib
import datetime
import errno
import itertools
import multiprocessing
import os
import pathlib
import resource
import signal
import socket
import subprocess
import tempfile

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from components import model_files, serving_store
from components.serving_lock import LOCK_FILE
from components.serving_store import TRAINING_STATE, VERSION_FILE, ModelInfo
from schemas.errors import ServingStoreError

DAY = datetime.date(2026, 1, 4)
KB = 1024


def make_model(folder, content="a", size=0):
    for name in ("saved_model.pb", "variables/variables.data", f"{TRAINING_STATE}/state.data"):
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() * max(1, size // 3))
    return str(folder)


def info_of(model, day=0):
    files = model_files.digests(model, model_files.list_files(model))
    date = DAY + datetime.timedelta(days=day)
    return ModelInfo(date, date, "m", "t", model, made_from=f"day {day}", files=files)


def push(model, serving, day, keep_versions=5):
    """A push for a day, as its run planned it: over the version of the day before."""
    versions = serving_store.list_versions(serving)
    earlier = [v.version for v in versions if v.info.made_from != f"day {day}"]
    return serving_store.push(
        model,
        serving,
        info_of(model, day),
        keep_versions,
        served_before=earlier[-1] if earlier else None,
    )


def state_of(serving):
    """All that lies in the serving folder, by name; versions without what differs by folder."""
    found = {}
    for path in sorted(pathlib.Path(serving).rglob("*")):
        name = str(path.relative_to(serving))
        if path.is_file() and not name.endswith(VERSION_FILE) and name != LOCK_FILE:
            found[name] = path.read_bytes()
    return found


def in_a_child(action):
    """Runs in a forked process; returns how it ended, as `os.waitstatus_to_exitcode` says."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            action()
            code = 0
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def serving(tmp_path):
    folder = str(tmp_path / "serving")
    push(make_model(tmp_path / "first", "first"), folder, 0)
    return folder


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    with contextlib.suppress(FileNotFoundError):
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            yield folder
            subprocess.run(["umount", "-l", str(folder)], check=True)
            return
    pytest.skip("needs the right to mount a file system")


def test_push_on_a_full_disk_leaves_nothing_and_the_next_gets_out(tmp_path, small_disk):
    serving = str(small_disk / "serving")
    push(make_model(tmp_path / "a", "a", 100 * KB), serving, 0)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 400 * KB)
    before = state_of(serving)
    model = make_model(tmp_path / "b", "b", 200 * KB)
    with pytest.raises(ServingStoreError) as caught:
        push(model, serving, 1)
    message = str(caught.value)
    assert "No space left on device" in message
    assert "it takes 204,798 bytes and " in message
    assert "make room or keep fewer than 5 versions" in message
    assert state_of(serving) == before
    filler.unlink()
    assert push(model, serving, 1).version == 2


def test_rollback_on_a_full_disk_is_an_error_that_leaves_nothing(tmp_path, small_disk):
    serving = str(small_disk / "serving")
    for day, name in enumerate("ab"):
        push(make_model(tmp_path / name, name, 200 * KB), serving, day)
    (small_disk / "filler").write_bytes(b"x" * 150 * KB)
    before = state_of(serving)
    with pytest.raises(ServingStoreError, match="No space left on device"):
        serving_store.rollback(serving, 1)
    assert state_of(serving) == before


def test_versions_beyond_the_number_to_keep_make_room_and_no_others(tmp_path, small_disk):
    serving = str(small_disk / "serving")
    for day, name in enumerate("abcd"):
        push(make_model(tmp_path / name, name, 120 * KB), serving, day)
    model = make_model(tmp_path / "e", "e", 120 * KB)
    assert push(model, serving, 4, keep_versions=3).version == 5
    # Three are kept, and there is room for none beside them.
    (small_disk / "filler").write_bytes(b"x" * 150 * KB)
    with pytest.raises(ServingStoreError, match="No space left on device"):
        push(make_model(tmp_path / "f", "f", 120 * KB), serving, 5, keep_versions=3)
    assert [v.version for v in serving_store.list_versions(serving)] == [3, 4, 5]


def test_folder_that_cannot_be_written_is_an_error_for_people(tmp_path, small_disk):
    serving = str(small_disk / "serving")
    push(make_model(tmp_path / "a"), serving, 0)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ServingStoreError, match=r"Read-only file system.*what is served is what"):
        push(make_model(tmp_path / "b", "b"), serving, 1)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [(model_files, "sync", 9), (serving_store, "_remove_surplus", 2)],
    ids=["the folder's names", "old versions"],
)
def test_error_after_a_version_is_visible_does_not_deny_it(
    tmp_path, serving, monkeypatch, module, name, call
):
    function, calls = getattr(module, name), itertools.count(1)

    def fail_once(*args, **kwargs):
        if next(calls) == call:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, fail_once)
    assert push(make_model(tmp_path / "model", "b"), serving, 1).version == 2
    assert serving_store.served_version(serving).version == 2


def test_file_that_grows_beyond_a_limit_leaves_nothing(tmp_path, serving):
    before = state_of(serving)
    model = make_model(tmp_path / "model", "b", 300 * KB)

    def push_with_a_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50 * KB, 50 * KB))
        with pytest.raises(ServingStoreError, match="File too large"):
            push(model, serving, 1)

    assert in_a_child(push_with_a_limit) == 0
    assert state_of(serving) == before
    assert push(model, serving, 1).version == 2


# A process that is killed


def killing(module, name, call, when):
    """Has SIGKILL come before or after the nth call of a function."""
    function = getattr(module, name)
    calls = iter(range(1, 10**6))

    def wrapper(*args, **kwargs):
        number = next(calls)
        if number == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if number == call and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, wrapper)


MOMENTS = {
    "lock held": (serving_store, "_remove_dead_staging", 1, "before"),
    "first version file": (serving_store.storage, "copy", 1, "before"),
    "first file copied": (serving_store.storage, "copy", 1, "after"),
    "second file copied": (serving_store.storage, "copy", 2, "after"),
    "all files copied": (serving_store.storage, "copy", 3, "after"),
    "some files durable": (model_files, "sync", 2, "before"),
    "before the rename": (os, "rename", 1, "before"),
    "right after the rename": (os, "rename", 1, "after"),
    "before the folder is durable": (model_files, "sync", 9, "before"),
    "old version taken out of sight": (os, "rename", 2, "after"),
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_push_killed_anywhere_and_made_again_ends_as_an_unharmed_one(tmp_path, serving, moment):
    second, third = (make_model(tmp_path / name, name) for name in ("second", "third"))
    push(second, serving, 1)
    before = state_of(serving)

    def push_and_die():
        killing(*moment)
        push(third, serving, 2, keep_versions=2)

    assert in_a_child(push_and_die) == -signal.SIGKILL
    versions = [v.version for v in serving_store.list_versions(serving)]
    assert versions in ([1, 2], [1, 2, 3], [2, 3])
    visible = {k: v for k, v in state_of(serving).items() if k.split("/")[0] in ("1", "2")}
    assert visible.items() <= before.items()

    assert push(third, serving, 2, keep_versions=2).version == 3
    # A run's push that was recognised leaves the removal to the next one.
    push(third, serving, 3, keep_versions=2)
    assert sorted(os.listdir(serving)) == [LOCK_FILE, "3", "4"]
    assert all(serving_store.damage(v) == [] for v in serving_store.list_versions(serving))


def test_all_of_a_version_is_durable_before_it_is_visible(tmp_path, serving, monkeypatch):
    synced, visible_with = set(), []
    fsync, rename = os.fsync, os.rename

    def note_sync(descriptor):
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def note_rename(source, target):
        present = {str(path) for path in (pathlib.Path(source), *pathlib.Path(source).rglob("*"))}
        visible_with.append((present, set(synced)))
        synced.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    push(make_model(tmp_path / "model", "b"), serving, 1)
    ((present, durable),) = visible_with
    assert len(present) >= 7
    assert present <= durable
    # The name itself.
    assert synced == {serving}


# Several at once


def push_for_a_day(job):
    model, serving, day, barrier_file = job
    while not os.path.exists(barrier_file):
        pass
    try:
        return serving_store.push(
            model, serving, info_of(model, day), 5, served_before=1
        ).info.run_date
    except ServingStoreError as error:
        return str(error)


def test_of_processes_that_share_a_folder_one_pushes_and_the_rest_are_refused(tmp_path, serving):
    # Two workspaces, each with a link to one serving folder.
    links = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serving").symlink_to(serving)
        links.append(str(tmp_path / name / "serving"))
    start = str(tmp_path / "start")
    jobs = [
        (make_model(tmp_path / f"m{day}", f"m{day}", 300 * KB), links[day % 2], day, start)
        for day in range(1, 5)
    ]
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(len(jobs), context) as pool:
        done = [pool.submit(push_for_a_day, job) for job in jobs]
        pathlib.Path(start).touch()
        results = [future.result(timeout=120) for future in done]
    (pushed,) = [result for result in results if isinstance(result, datetime.date)]
    assert all("version 2 is served by now" in r for r in results if r is not pushed)
    served = serving_store.served_version(serving)
    assert (served.version, served.info.run_date) == (2, pushed)
    assert serving_store.damage(served) == []


def test_older_day_is_not_pushed_over_a_newer_one_that_was_planned_at_the_same_time(
    tmp_path, serving
):
    newer, older = make_model(tmp_path / "newer", "newer"), make_model(tmp_path / "older", "older")
    serving_store.push(newer, serving, info_of(newer, 2), 5, served_before=1)
    with pytest.raises(ServingStoreError, match="version 2 is served by now"):
        serving_store.push(older, serving, info_of(older, 1), 5, served_before=1)
    served = serving_store.served_version(serving)
    assert (served.version, served.info.run_date) == (2, DAY + datetime.timedelta(days=2))


# What else may lie in the folder


class HangsError(BaseException):
    """No code that catches errors of a file takes it for one."""


@contextlib.contextmanager
def within(seconds):
    def give_up(*_):
        raise HangsError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as unix, contextlib.suppress(OSError):
        unix.bind(path)  # Too long a path is none of the kinds here.


def a_version(path, info=b"{}"):
    os.makedirs(os.path.join(path, "assets.extra"))
    pathlib.Path(path, "saved_model.pb").touch()
    pathlib.Path(path, VERSION_FILE).write_bytes(info)


def a_version_with_a_pipe(path):
    os.makedirs(os.path.join(path, "assets.extra"))
    pathlib.Path(path, "saved_model.pb").touch()
    os.mkfifo(os.path.join(path, VERSION_FILE))


KINDS = {
    "a link that leads nowhere": lambda path: os.symlink("nowhere", path),
    "a link to itself": lambda path: os.symlink(path, path),
    "a link to the folder above": lambda path: os.symlink("..", path),
    "a link to a version": lambda path: os.symlink("1", path),
    "an empty file": lambda path: pathlib.Path(path).touch(),
    "an empty folder": os.mkdir,
    "a folder without a model": lambda path: os.makedirs(os.path.join(path, "variables")),
    "a folder as model": lambda path: os.makedirs(os.path.join(path, "saved_model.pb")),
    "a pipe": os.mkfifo,
    "a socket": a_socket,
    "a version that says nothing": a_version,
    "a version of a list": lambda path: a_version(path, b"[" * 100_000),
    "a version of bytes": lambda path: a_version(path, b"\xff\x00"),
    "a version of wrong types": lambda path: a_version(
        path,
        b'{"run_date": 5, "trained_through": "2026-01-01", "model_fingerprint": 1, '
        b'"tasks_fingerprint": "t", "model_uri": []}',
    ),
    "a version with a pipe": a_version_with_a_pipe,
}
NAMES = st.one_of(
    st.sampled_from(["7", "07", "2", "-3", "4.5", "1e3", "٣", "²", "9" * 18, "9" * 19, "9" * 300]),
    st.sampled_from([b"\xff7".decode("utf-8", "surrogateescape"), "7\n", " 7", ".staging-1", "v2"]),
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1),
).filter(
    lambda name: name not in (".", "..", "1", "01", LOCK_FILE) and len(os.fsencode(name)) < 255
)


@settings(max_examples=60)
@given(entries=st.dictionaries(NAMES, st.sampled_from(sorted(KINDS)), max_size=4))
def test_whatever_lies_in_the_folder_is_passed_over_or_named_and_never_hangs(entries):
    with tempfile.TemporaryDirectory() as folder, within(20):
        serving = os.path.join(folder, "serving")
        model = make_model(os.path.join(folder, "model"))
        push(model, serving, 0)
        for name, kind in entries.items():
            KINDS[kind](os.path.join(serving, name))
        try:
            versions = serving_store.list_versions(serving)
        except ServingStoreError:
            return
        assert versions[0].info.run_date == DAY
        if len(versions) > 1:
            return
        new = push(model, serving, 1, keep_versions=1)
        assert serving_store.served_version(serving) == new
        assert serving_store.damage(new) == []


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_push_goes_on_whatever_lies_where_a_dead_one_staged(tmp_path, serving, kind):
    KINDS[kind](os.path.join(serving, ".staging-1"))
    with within(20):
        push(make_model(tmp_path / "model"), serving, 1)
    assert serving_store.served_version(serving).version == 2


def test_two_folders_of_one_version_are_an_error(tmp_path, serving):
    os.rename(os.path.join(serving, "1"), os.path.join(serving, "01"))
    assert serving_store.served_version(serving).version == 1
    make_model(tmp_path / "model")
    os.symlink("01", os.path.join(serving, "1"))
    with pytest.raises(ServingStoreError, match="are both version 1; remove one"):
        serving_store.list_versions(serving)


def test_link_that_goes_leaves_what_it_led_to(tmp_path):
    serving = str(tmp_path / "serving")
    model = make_model(tmp_path / "model")
    push(model, serving, 0)
    os.rename(os.path.join(serving, "1"), tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", os.path.join(serving, "1"))
    push(make_model(tmp_path / "b", "b"), serving, 1, keep_versions=1)
    assert sorted(os.listdir(serving)) == [LOCK_FILE, "2"]
    assert (tmp_path / "elsewhere" / "saved_model.pb").exists()
