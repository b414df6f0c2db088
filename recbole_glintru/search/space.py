"""What a search varies: a params file in the format of RecBole's HyperTuning, lines of the form `name kind values`.

::

    # kind, and the values that it draws
    n_layers choice [1, 2, 4]                one of the list
    hidden_dropout_prob uniform 0.1,0.5      between low and high
    hidden_size quniform 32,128,32           rounded to a multiple of the step; integers if all three are written so
    learning_rate loguniform -8,-4           exp of what is drawn between low and high

Blank lines and lines that start with `#` are ignored. RecBole executes the values of a choice; here they are literals.
"""

import ast
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUMBERS = {"uniform": ("low", "high"), "quniform": ("low", "high", "step"), "loguniform": ("low", "high")}


@dataclass(frozen=True)
class Parameter:
    """One setting that a search varies: its name, the kind of its distribution, and its numbers or choices."""

    name: str
    kind: str
    values: tuple

    def plain(self, value: Any) -> Any:
        """A value drawn by hyperopt or Ray, in the form of a configuration file."""
        value = value.item() if hasattr(value, "item") else value  # a NumPy scalar
        if self.kind == "quniform":
            step = self.values[2]
            multiple = round(value / step) * step
            return multiple if all(isinstance(number, int) for number in self.values) else float(multiple)
        return _listed(value)

    def largest(self) -> Any:
        """The largest value of a parameter whose values are numbers."""
        if self.kind == "choice":
            return max(self.values)
        return math.exp(self.values[1]) if self.kind == "loguniform" else self.plain(self.values[1])

    def for_ray(self, grid: bool) -> Any:
        """The parameter in Ray Tune's form; with `grid`, every choice once."""
        from ray import tune

        if self.kind == "choice":
            return tune.grid_search(list(self.values)) if grid else tune.choice(list(self.values))
        if self.kind == "loguniform":
            return tune.loguniform(*map(math.exp, self.values))
        return tune.uniform(*self.values[:2])  # `plain` rounds: Ray's quniform accepts only multiples of the step


def read_parameters(file: Path) -> list[Parameter]:
    """The parameters of a params file, in its order.

    Raises:
        ValueError: a line is malformed, or the file has none; the message names the file, the line and what is wrong.
    """
    parameters: dict[str, Parameter] = {}
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            parameter = _parse(line)
            if parameter.name in parameters:
                raise ValueError(f"{parameter.name} is listed twice.")
        except ValueError as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
        parameters[parameter.name] = parameter
    if not parameters:
        raise ValueError(f"{file}: no parameters (lines of the form `name kind values`).")
    return list(parameters.values())


def for_hyper_tuning(parameters: list[Parameter]) -> dict[str, dict[str, list]]:
    """The parameters in the form of RecBole's HyperTuning, `params_dict`."""
    by_kind: dict[str, dict[str, list]] = {}
    for parameter in parameters:
        by_kind.setdefault(parameter.kind, {})[parameter.name] = list(parameter.values)
    return by_kind


def _parse(line: str) -> Parameter:
    name, kind, values = [*line.split(None, 2), "", ""][:3]
    if kind != "choice" and kind not in NUMBERS:
        raise ValueError(f"{name} {kind}: the kind must be one of choice, {', '.join(NUMBERS)}.")
    if kind == "choice":
        return Parameter(name, kind, _choices(name, values))
    try:
        numbers = tuple(_number(word) for word in values.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != len(NUMBERS[kind]) or not -math.inf < numbers[0] < numbers[1] < math.inf:
        raise ValueError(f"{name} {kind} {values}: must be {','.join(NUMBERS[kind])} with low below high.")
    if kind == "quniform" and not numbers[2] > 0:
        raise ValueError(f"{name} {kind} {values}: the step must be above 0.")
    return Parameter(name, kind, numbers)


def _choices(name: str, text: str) -> tuple:
    try:
        choices = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        choices = None
    if not isinstance(choices, (list, tuple)) or not choices:
        raise ValueError(f"{name} choice {text}: must be a list of numbers, strings or lists.")
    return tuple(choices)


def _number(word: str) -> Any:
    try:
        return int(word)
    except ValueError:
        return float(word)


def _listed(value: Any) -> Any:
    """Turn the tuples that hyperopt makes of lists back into lists."""
    return [_listed(part) for part in value] if isinstance(value, (list, tuple)) else value
