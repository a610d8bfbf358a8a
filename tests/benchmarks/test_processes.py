"""What a process and its children have used is what the system says."""

import subprocess
import sys

from benchmarks.processes import Usage, usage

PROGRAM = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-c", "for i in range(3_000_000): pass"])
held = bytearray(64 << 20)
for i in range(2_000_000): pass
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(*(item.ru_utime + item.ru_stime for item in used), flush=True)
child = subprocess.Popen([sys.executable, "-c", "held = bytearray(64 << 20); print(); input()"])
input()
"""


def test_usage_is_that_of_the_process_and_of_all_below_it():
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        own, ended = map(float, process.stdout.readline().split())
        process.stdout.readline()
        found = usage(process.pid)
        process.stdin.write("\n\n")
        process.stdin.close()
        process.wait()
    # The clock of /proc ticks a hundred times a second.
    assert own - 0.02 <= found.own_seconds <= own + 0.5
    assert ended - 0.02 <= found.started_seconds <= ended + 1.0
    assert 2 * 64 << 20 <= found.memory < 300 << 20


def test_a_process_that_is_gone_has_used_nothing():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert usage(process.pid) == Usage()
