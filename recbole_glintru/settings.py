"""Reading a model's settings from RecBole's configuration: a wrong value raises a ValueError that names the key.

`config` is any object with `config[key]`, which is None for a missing key, like RecBole's `Config`.
"""

import traceback
from collections.abc import Iterable
from math import inf
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Optional, Union

if TYPE_CHECKING:  # the command line reads settings before it needs PyTorch
    from recbole_glintru.ops.histories.grouping import Costs


def integer(config, key: str, least: int = 1, most: Optional[int] = None) -> int:
    """A whole number from `least` to `most`, or without an upper bound."""
    value = config[key]
    if not _is(Integral, value) or value < least or (most is not None and value > most):
        bounds = f", at least {least}" if most is None else f" from {least} to {most}"
        raise _wrong(key, value, f"a whole number{bounds}")
    return int(value)


def odd(config, key: str) -> int:
    """A positive odd number, as a centred convolution needs."""
    value = config[key]
    if not _is(Integral, value) or value < 1 or value % 2 == 0:
        raise _wrong(key, value, "a positive odd number (the convolution is centred on its position)")
    return int(value)


def number(config, key: str, least: float = 0.0) -> float:
    """A finite number, at least `least`."""
    value = config[key]
    if not _is(Real, value) or not least <= value < inf:
        raise _wrong(key, value, f"a finite number, at least {least:g}")
    return float(value)


def probability(config, key: str) -> float:
    """A dropout probability: at least 0 and below 1."""
    value = config[key]
    if not _is(Real, value) or not 0 <= value < 1:
        raise _wrong(key, value, "a probability, at least 0 and below 1")
    return float(value)


def switch(config, key: str) -> bool:
    """True or False."""
    import numpy as np

    value = config[key]
    if not isinstance(value, (bool, np.bool_)):
        raise _wrong(key, value, "True or False")
    return bool(value)


def choice(config, key: str, options: Iterable[str]) -> str:
    """One of `options`."""
    value, options = config[key], list(options)
    if value not in options:
        raise _wrong(key, value, f"one of {', '.join(options)}")
    return value


def divisor(config, key: str, whole: str) -> int:
    """A positive number that divides the value of the key `whole`, as the heads divide the hidden size."""
    value, total = integer(config, key), integer(config, whole)
    if total % value:
        raise _wrong(key, value, f"a divisor of {whole}={total}")
    return value


def length_groups(config) -> "Union[bool, str, Costs]":
    """The key `length_groups` of models that compute padding: how to cut a batch into groups of rows of similar length.

    True (the default): the cheapest grouping under the usual costs of the device; False: never; "measured": the
    cheapest under costs measured in this process, so that two runs with one seed may differ; `[group, step]`: the
    cheapest under these costs, in row-steps (`recbole_glintru.ops.histories.grouping`). No choice changes a result
    except by rounding and by the random numbers that dropout draws.
    """
    value = config["length_groups"]
    if value is None or isinstance(value, bool) or value == "measured":
        return True if value is None else value
    numbers = list(value) if isinstance(value, (list, tuple)) else []
    if len(numbers) != 2 or not all(_is(Real, number) and 0 <= number < inf for number in numbers):
        raise _wrong("length_groups", value, "True, False, measured, or two finite costs [group, step], at least 0")
    from recbole_glintru.ops.histories.grouping import Costs

    return Costs(*map(float, numbers))


def raised_by_a_setting(error: ValueError) -> bool:
    """Whether the reason for an error is a wrong setting.

    Settings are refused by the functions above, by each `on_request` of the package, and by the constructors of models
    of the package and of RecBole. Any other ValueError of a third-party model is a bug in it and needs its traceback.
    """
    from recbole.model.abstract_recommender import AbstractRecommender

    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames:
        module = frame.f_globals.get("__name__", "")
        if module == __name__ or (frame.f_code.co_name == "on_request" and module.startswith("recbole_glintru.")):
            return True
    made = [frame.f_locals.get("self") for frame in frames if frame.f_code.co_name == "__init__"]
    packages = {type(thing).__module__.partition(".")[0] for thing in made if isinstance(thing, AbstractRecommender)}
    return not packages.isdisjoint(("recbole", "recbole_glintru"))


def _is(kind: type, value: Any) -> bool:
    """Whether it is a number of that kind, Python's or NumPy's, and no truth value."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _wrong(key: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{key}={value!r}: must be {allowed}.")
