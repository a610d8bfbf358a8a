"""Calls of the command line that must not import what is slow to import."""

import subprocess
import sys


def call(*arguments, without):
    """Runs `steadyrank` in a process of its own; fails if it imports any of `without`.

    Returns:
        The ended process; its standard error ends in the CPU seconds that it took.
    """
    script = (
        "import os, sys\n"
        "from pipeline.cli import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        f"    print('imported', {set(without)!r} & set(sys.modules) or None, file=sys.stderr)\n"
        "    print(sum(os.times()[:2]), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "imported None" in done.stderr, done.stderr
    return done
