"""Seeds of fuzzed inputs: the same ones in every run, and as many more as CVMAE_FUZZ_SECONDS has time for."""

import os
import time
from collections.abc import Iterator

SECONDS = float(os.environ.get("CVMAE_FUZZ_SECONDS", "0"))


def seeds(count: int) -> Iterator[int]:
    """Yields `count` seeds from 0 on, and goes on until CVMAE_FUZZ_SECONDS are over."""
    end, seed = time.monotonic() + SECONDS, 0
    while seed < count or time.monotonic() < end:
        yield seed
        seed += 1
