"""Freed memory stays with the process."""

import subprocess
import sys

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


def page_faults(mode):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True
    )
    return int(run.stdout.split()[-1])


def test_pages_are_not_fetched_again():
    fetched, kept = page_faults("default"), page_faults("keep")
    assert kept < fetched / 10, (fetched, kept)
