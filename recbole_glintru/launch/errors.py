"""User errors, which end a command without a traceback."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """A mistake that the user can correct: it ends the program with its message and no traceback."""


@contextlib.contextmanager
def user_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn exceptions of these kinds raised in the block into UserError."""
    try:
        yield
    except kinds as error:
        raise UserError(str(error)) from None
