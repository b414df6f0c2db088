"""The format of tables and figures in the reports; `-` marks what is missing."""

import math
from collections.abc import Iterable
from typing import Optional


def table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    head = list(head)
    rule = "|---|" + "---:|" * (len(head) - 1)
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def number(value: Optional[float], digits: int = 4) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def plus_minus(mean: float, deviation: Optional[float]) -> str:
    return number(mean) if deviation is None else f"{number(mean)} ± {deviation:.4f}"


def percent(value: Optional[float], sign: str = "+") -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:{sign}.1f} %"


def p(value: Optional[float]) -> str:
    if value is None:
        return "-"
    if value < 1e-300:  # the smallest are rounded to zero
        return "<1e-300"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
