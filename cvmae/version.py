"""The version of the package, kept apart so that the build reads it without importing jax."""

__version__ = "0.2.0.dev0"
