"""Freed memory stays with the process: measured by the pages that the kernel hands out."""

import subprocess
import sys

import pytest
from stages import ROOT

CODE = """
import resource, sys
import torch
from ldcast.machine.heap import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
torch.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**23)  # 32 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def num_page_faults(how: str) -> int:
    command = [sys.executable, "-c", CODE, how]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_blocks_are_used_again() -> None:
    assert num_page_faults("keep") < 0.1 * num_page_faults("plain")
