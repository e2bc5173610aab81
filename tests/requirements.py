"""What a test needs that a machine may lack: skipped loudly, or failed where the environment says it must be there."""

import os
from typing import NoReturn

import pytest


def missing(what: str, why: str) -> NoReturn:
    """Skips the running test; fails it if `what` is in the comma-separated CVMAE_REQUIRE (so CI cannot skip in silence)."""
    if what in os.environ.get("CVMAE_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required (CVMAE_REQUIRE) but missing: {why}")
    pytest.skip(f"{what} is missing: {why}", allow_module_level=True)
