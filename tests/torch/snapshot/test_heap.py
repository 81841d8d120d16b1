"""What a search asks of glibc: that the memory of a step is still there for the next one."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from findlr.torch.snapshot.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        parts = [torch.ones(1 << 20) for _ in range(4)]  # 16 MiB, which the next round could have again
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

at_first = faults()
keep_freed_memory()
print(at_first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc's allocator that gives memory back")
def test_memory_that_is_freed_is_kept():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    at_first, kept = map(int, done.stdout.split())
    assert at_first > 10 * kept  # 200,000 faults, and those of the first rounds
