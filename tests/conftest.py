"""What tests of every folder share."""

import fcntl
import gc
import os
import socket
import subprocess
import sys
import time

import hypothesis
import pytest
import warm_python

# Read when TensorFlow and NumPy start. Every worker of pytest has a core; threads of their own
# only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker has one left when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What is imported by now stays: no garbage collection needs to walk it again."""
    gc.freeze()


def pytest_addoption(parser):
    parser.addoption(
        "--most-cpu", type=float, help="fail tests that are not slow and take more CPU seconds"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = _cpu_seconds()
    result = yield
    used, most = _cpu_seconds() - before, item.config.getoption("--most-cpu")
    if most and used > most and not item.get_closest_marker("slow"):
        pytest.fail(
            f"took {used:.1f} s of CPU, more than {most:g}: make it cheaper, or mark it slow"
        )
    return result


def _cpu_seconds():
    """Of this process and those that it has waited for: no busy machine changes that much."""
    return sum(os.times()[:4])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config, specs):
    """Workers are warm Pythons too: TensorFlow is imported once for all of them."""
    folder = config._tmp_path_factory.getbasetemp() / "warm"
    config.add_cleanup(_warm_python(folder).close)
    for spec in specs:
        spec.python = str(folder / "python")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["python"] = sys.executable


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        # A test starts real Pythons, unless it asks for warm ones.
        sys.executable = config.workerinput["python"]


@pytest.fixture(scope="session")
def warm_python_path(request, tmp_path_factory):
    """Path of a Python that has TensorFlow and TFX imported; see `warm_python`."""
    base = tmp_path_factory.getbasetemp()
    # Workers of pytest-xdist share the one that they were forked from.
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "warm"
    with _warm_python(folder):
        yield str(folder / "python")


def _warm_python(folder):
    """Makes `folder`/python, if it is not there; returns the connection that keeps it."""
    folder.mkdir(exist_ok=True)
    connection = socket.socket(socket.AF_UNIX)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _connected(connection, folder):
            clean = {
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTHON", "COVERAGE"))
            }
            said = folder / "said"
            with said.open("w") as output:
                server = subprocess.Popen(
                    [sys.executable, warm_python.__file__, folder], env=clean, stderr=output
                )
            while not _connected(connection, folder):
                assert server.poll() is None, said.read_text()
                time.sleep(0.1)
    return connection


def _connected(connection, folder):
    try:
        connection.connect(str(folder / "socket"))
        connection.sendall(b" ")
    except OSError:
        return False
    return True


@pytest.fixture
def warm_processes(monkeypatch, warm_python_path):
    """Whatever starts a process of this Python gets a warm one."""
    monkeypatch.setattr(sys, "executable", warm_python_path)
