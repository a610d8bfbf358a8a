"""The pool beside a Flink worker that starts Beam's workers when a job asks for them.

It is Beam's own (`apache_beam.runners.worker.worker_pool_main`) with `pipeline.flink.worker` as
what it starts, so that any environment with this project installed has all that it takes:
`--environment_type=EXTERNAL --environment_config=localhost:50000`.

Usage: python -m pipeline.flink.pool [--port=50000]
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

PORT = 50000


def write_starter(folder: str) -> str:
    """Writes the program that starts a worker of Beam, as Beam's `boot` does; returns its path."""
    path = os.path.join(folder, "worker")
    with open(path, "w", encoding="utf-8") as file:
        # The pool never reads what a worker prints, and a full pipe would stop the worker.
        file.write(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pipeline.flink.worker "$@" >&2\n'
        )
    os.chmod(path, 0o755)
    return path


def _stop(number: int, frame: object) -> NoReturn:
    # Beam's pool stops its workers when Python ends in good order.
    sys.exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args(arguments)
    from apache_beam.runners.worker import worker_pool_main

    signal.signal(signal.SIGTERM, _stop)
    with tempfile.TemporaryDirectory(prefix="beam-pool-") as folder:
        worker_pool_main.main(
            [f"--service_port={options.port}", f"--container_executable={write_starter(folder)}"]
        )


if __name__ == "__main__":
    main()
