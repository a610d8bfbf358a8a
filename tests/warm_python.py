"""A Python that has imported TensorFlow and TFX already, for tests that start many processes.

Importing them takes 10 to 25 CPU seconds, in each process anew. A server imports them once and
forks. Each process that a test starts is still one of its own, with its own arguments,
environment, folder, group, files and signals; it only has these imports behind it. Modules of
the project are imported anew.

    python warm_python.py FOLDER   # makes FOLDER/python, which is called as python is

A connection to FOLDER/socket keeps the server; it ends with the last one. One that sends a
message starts a process and receives its exit code.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import types

LIBRARIES = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "tensorflow",
    "keras",
    "apache_beam",
    "tensorflow_data_validation",
    "tensorflow_model_analysis",
    "tensorflow_transform.beam",
    "tfx.components",
    "tfx.orchestration.beam.beam_dag_runner",
    "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor",
    "typer",
    "yaml",
)
"""What a step or a day imports of others."""

_MOST_FILES = 64
_LENGTH = 8


def serve(folder: str) -> list[str]:
    """Forks a process for each request.

    Args:
        folder: where to make `python`, and `socket` once the libraries are imported.

    Returns:
        In a new process, its arguments. The server itself does not return.
    """
    python = os.path.join(folder, "python")
    with open(python, "w", encoding="utf-8") as file:
        file.write(
            f"#!{sys.executable} -IS\nimport sys\nsys.path.append({os.path.dirname(__file__)!r})\n"
            f"import warm_python\nwarm_python.run({folder!r}, sys.argv[1:])\n"
        )
    os.chmod(python, 0o755)
    gc.disable()  # To walk all that the imports make, again and again, takes a fifth of their time.
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # These pages are shared; a collection would copy them.
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    path = os.path.join(folder, "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen(64)
    os.rename(f"{path}.new", path)
    keeping: list[socket.socket] = []
    while True:
        ready, _, _ = select.select([listener, *keeping], [], [])
        for connection in ready:
            if connection in keeping:
                keeping.remove(connection)
                connection.close()
                if not keeping:
                    os.unlink(path)
                    os._exit(0)
                continue
            connection, _ = listener.accept()
            length, files, *_ = socket.recv_fds(connection, _LENGTH, _MOST_FILES)
            if not files:
                keeping.append(connection)
                continue
            if not os.fork():
                for other in (listener, *keeping):
                    other.close()
                with connection.makefile("rb") as file:
                    request = json.loads(file.read(int(length)))
                return _attend(connection, request, files, python)
            connection.close()
            for file in files:
                os.close(file)


def _attend(connection: socket.socket, request: dict, files: list[int], python: str) -> list[str]:
    """Forks the process, and kills it if whoever asked for it has died."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    process = os.fork()
    if not process:
        connection.close()
        _become(request, files, python)
        return request["arguments"]
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)
    while ended not in select.select([ended, connection], [], [])[0]:
        for number in connection.recv(16) or [signal.SIGKILL]:
            os.kill(process, number)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(b"%d" % code)
    os._exit(0)


def _become(request: dict, files: list[int], python: str) -> None:
    """Takes over the files, environment and folder of the process that asked."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 256) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(high, request["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    with contextlib.suppress(PermissionError):  # One of another session cannot be joined.
        os.setpgid(0, request["group"])
    sys.executable = python
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:1] = [request["folder"], *filter(None, added)]
    if os.environ.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)
    sys.modules["numpy"].random.seed()
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
            del sys.modules[name]  # It is of the back end that it was imported with.
    if os.environ.get("COVERAGE_PROCESS_CONFIG"):
        importlib.import_module("coverage").process_startup()


def execute(arguments: list[str]) -> None:
    """Runs `-m MODULE ...` or `-c CODE ...` as the main module."""
    option, what, *rest = arguments
    if option == "-m":
        sys.argv = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
        return
    sys.argv = [option, *rest]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)


def run(folder: str, arguments: list[str]) -> None:
    """Has the server run a process, forwards signals to it and ends as it does."""
    if arguments[0] == "-u":  # Of execnet, which flushes what it writes.
        arguments = arguments[1:]
    if arguments[0] not in ("-c", "-m"):
        os.execv(sys.executable, [sys.executable, *arguments])
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.path.join(folder, "socket"))
    request = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "group": os.getpgrp(),
        "files": [int(name) for name in os.listdir("/proc/self/fd") if _is_inherited(int(name))],
    }
    message = json.dumps(request).encode()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
    socket.send_fds(connection, [b"%*d" % (_LENGTH, len(message))], request["files"])
    connection.sendall(message)
    code = int(connection.recv(16))
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _is_inherited(file: int) -> bool:
    try:
        return os.get_inheritable(file)
    except OSError:  # That of the listing.
        return False


if __name__ == "__main__":
    execute(serve(sys.argv[1]))
