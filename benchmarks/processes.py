"""What a process and those that it started have used."""

from __future__ import annotations

import contextlib
import dataclasses

import psutil


@dataclasses.dataclass(frozen=True)
class Usage:
    """Of a process and all below it.

    Attributes:
        own_seconds: CPU time of the process itself.
        started_seconds: of those below it, with those that have ended and were waited for.
        memory: bytes that are resident now, what processes share counted for each.
    """

    own_seconds: float = 0.0
    started_seconds: float = 0.0
    memory: int = 0


def usage(pid: int) -> Usage:
    """Looks at a process and all below it; one that has ended used nothing."""
    own, started, memory = 0.0, 0.0, 0
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in (top, *top.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                used = times.user + times.system
                started += times.children_user + times.children_system
                started += 0.0 if process is top else used
                own += used if process is top else 0.0
                memory += process.memory_info().rss
    return Usage(own, started, memory)
