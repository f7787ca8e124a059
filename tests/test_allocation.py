"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="needs the C library glibc"
)

PROGRAM = """
import resource, sys
import numpy as np
from kmaskrcnn.allocation import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(2**23)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# Four threads take and free 48 MB one after the other; what is then kept lies in as many heaps as they use.
THREADS = """
import ctypes, sys, threading
from pathlib import Path
from kmaskrcnn.allocation import keep_freed_memory

assert keep_freed_memory(one_heap=sys.argv[1] == "one")
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
at_once = threading.Barrier(4)

def take():
    at_once.wait()  # all live at the same time, each with the heap that it was given
    with one_at_a_time:
        kept = [libc.malloc(2**20) for _ in range(48)]
        for place in kept:
            ctypes.memset(place, 1, 2**20)
        for place in kept:
            libc.free(place)
    at_once.wait()

one_at_a_time = threading.Lock()
threads = [threading.Thread(target=take) for _ in range(4)]
for each in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        each(thread)
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024)
"""


def number_from(program, mode):
    command = [sys.executable, "-c", program, mode]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def page_faults(mode):
    return number_from(PROGRAM, mode)


def test_pages_are_not_fetched_again():
    fetched, kept = page_faults("default"), page_faults("keep")
    assert kept < fetched / 10, (fetched, kept)


def test_threads_share_what_was_freed_in_one_heap():
    """Megabytes that stay: three times 48 less where one heap serves all four."""
    assert number_from(THREADS, "one") + 100 < number_from(THREADS, "own")
