"""What a training worker does around the training."""

import platform
import subprocess
import sys

import pytest
from torch import nn

from exreid.training.world import ProcessGroup

BLOCKS = """
import resource
import numpy as np
from exreid.training.worker import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(40 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
keep_memory()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc")
def test_memory_that_was_freed_is_used_again_and_not_asked_for_anew():
    printed = subprocess.check_output([sys.executable, "-c", BLOCKS], text=True)
    given_back, kept = map(int, printed.split())
    assert given_back > 100
    assert kept < given_back / 10


def test_a_process_alone_shares_its_gradients_with_nobody():
    world, module = ProcessGroup.__new__(ProcessGroup), nn.Linear(2, 2)
    world.rank, world.size = 0, 1
    assert world.wrap(module) is module
