"""Settings of the suite: JAX on the CPU, and one cache of compiled programs for all tests and their processes."""

import gc
import importlib.metadata
import os

import jaxtyping
import pytest

import tests.typechecker

# Compiles a training step in 0.6 of the time; jax 0.10 has it, the last for Python 3.11, and 0.12 stops at a flag that it does not know.
QUICK_FLAG = "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib").startswith("0.10.") else ""


def pytest_configure(config):
    """Sets the environment before any test module imports JAX; processes started by tests inherit it."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if hasattr(config, "cache"):  # not under `-p no:cacheprovider`
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    # A program of a few tiny steps takes longer to optimize than to run.
    flags = os.environ.get("XLA_FLAGS", "")
    if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1" and QUICK_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {QUICK_FLAG}"
    # Few of the objects of traced programs are garbage: looking through them took a tenth of the time.
    gc.set_threshold(100_000, 20)
    if os.environ.get("CVMAE_CHECK_SHAPES", "1") == "1":
        check_shapes()


def pytest_collection_modifyitems(config, items):
    """Leaves out what is marked as slow, unless CVMAE_SLOW=1 or the test is named with its file."""
    named = any("::" in argument for argument in config.invocation_params.args)
    if named or os.environ.get("CVMAE_SLOW") == "1":
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)


def check_shapes():
    """Checks arguments and results against their annotations, shapes included, in the rooms whose functions have them."""
    rooms = ["cvmae.models", "cvmae.objective", "cvmae.augment"]
    jaxtyping.install_import_hook(rooms, f"{tests.typechecker.__name__}.check_function")


@pytest.fixture
def optimized():
    """Compiles a test's programs with XLA's optimizations, as those of a user."""
    import jax  # not before the environment is set

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1")
