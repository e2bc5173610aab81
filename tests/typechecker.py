"""The type checker of the import hook of jaxtyping, see conftest."""

import beartype


def check_function(function):
    """Checks calls of a function, but not of constructors.

    JAX makes objects of Flax's dataclasses with anything in place of arrays: shardings, shapes, None.
    """
    return function if function.__name__ == "__init__" else beartype.beartype(function)
