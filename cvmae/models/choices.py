"""Fields that take one of a few words: a Literal type names them, and this checks them."""

from typing import Any, get_args


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises ValueError where `value` of the field `name` is not in `choices`, a Literal type; the message lists them."""
    if value not in get_args(choices):
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(get_args(choices))}")
