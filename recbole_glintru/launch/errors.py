"""Mistakes of the user's, which end a command without a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """What the user can put right: it ends the program with its message alone, without a traceback."""


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn the exceptions of these kinds that the block raises into UserError."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from None
