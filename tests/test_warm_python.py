"""Processes of the warm Python are as those of the real one."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

CODE = """
import os, sys
import probe_me
print(sys.argv, os.getcwd(), sorted(os.environ.items()), sys.stdin.read(), probe_me.__file__)
print(__name__, len(os.listdir("/proc/self/fd")) < 200, file=sys.stderr)
os.write(int(sys.argv[1]), b"written")
sys.exit(7)
"""


@pytest.fixture(params=[False, True], ids=["real", "warm"])
def python(request):
    return request.getfixturevalue("warm_python_path") if request.param else sys.executable


def test_process_has_its_own_arguments_environment_folder_files_and_code(
    tmp_path, warm_python_path
):
    (tmp_path / "probe_me.py").touch()
    seen = []
    for python in (sys.executable, warm_python_path):
        reading, writing = os.pipe()
        done = subprocess.run(
            [python, "-c", CODE, str(writing), "b c"],
            input="given",
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"A": "b", "PYTHONPATH": str(tmp_path)},
            pass_fds=[writing],
            check=False,
        )
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            seen.append((done.returncode, done.stdout, done.stderr, pipe.read()))
    assert seen[0] == seen[1]
    assert seen[0][0] == 7


def test_uncaught_error_is_told_and_modules_run_by_name(python):
    done = subprocess.run([python, "-m", "json.tool", "--nonsense"], capture_output=True)
    assert (done.returncode, b"--nonsense" in done.stderr) == (2, True)
    done = subprocess.run([python, "-c", "raise ValueError('a')"], capture_output=True)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, b"ValueError: a")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signal_ends_the_process(python, number):
    code = "import time; print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"1\n"
    began = time.monotonic()
    process.send_signal(number)
    assert process.stdout.read() == b""
    assert process.wait() == -number
    assert time.monotonic() - began < 30


def test_a_group_of_processes_dies_at_once(python):
    last = "import time; print(1, flush=True); time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {last!r}])"
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, preexec_fn=os.setpgrp)
    assert process.stdout.readline() == b"1\n"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGKILL)
    assert process.stdout.read() == b""  # All of them hold it.
    assert process.wait() == -signal.SIGKILL
    assert time.monotonic() - began < 30


def test_process_that_ends_by_a_signal_is_seen_to(python):
    done = subprocess.run([python, "-c", "import os; os.kill(os.getpid(), 9)"], check=False)
    assert done.returncode == -signal.SIGKILL


def test_keras_has_the_back_end_that_the_environment_names(warm_python_path):
    code = "import keras; print(keras.backend.backend(), keras.ops.ones(2).sum())"
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    done = subprocess.run([warm_python_path, "-c", code], env=environment, capture_output=True)
    assert done.stdout == b"numpy 2.0\n", done.stderr
