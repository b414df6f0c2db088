"""A search on one machine, one trial after the other: RecBole's HyperTuning, which is hyperopt's."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, Callable, Optional

from recbole.trainer import HyperTuning

from recbole_glintru.launch.errors import UserError
from recbole_glintru.search.space import Parameter, for_hyper_tuning

FAILURES = 3  # so many trials without one that succeeds, and the mistake is not the parameters'


def search(
    trial: Callable[[dict[str, Any]], dict[str, Any]],
    space: list[Parameter],
    algo: str = "exhaustive",
    max_evals: Optional[int] = None,
    early_stop: int = 10,
    seed: int = 0,
) -> None:
    """Run `trial` with parameters from the space.

    Args:
        trial: takes parameters, by name, and returns what RecBole's `objective_function` returns.
        algo: "exhaustive", "random" or "bayes".
        max_evals: most trials; all there are if exhaustive, otherwise 100, unless given.
        early_stop: so many trials without a better one end the search.
        seed: of the parameters that are drawn.

    Raises:
        UserError: the first trials have all failed. A later failure ends that trial alone.
    """
    tuning = _Tuning(trial, space, algo=algo, max_evals=max_evals or 100, early_stop=early_stop)
    if algo == "exhaustive":  # RecBole has set it to the size of the space
        tuning.max_evals = min(math.prod(len(parameter.values) for parameter in space), max_evals or sys.maxsize)
    from hyperopt.exceptions import AllTrialsFailed

    with _hyperopts_seed(seed), contextlib.suppress(AllTrialsFailed):  # each has told why, see below
        tuning.run()


class _Tuning(HyperTuning):
    """HyperTuning, which a failing trial does not end."""

    def __init__(self, trial, space, **options):
        self._space, self._failures = space, 0
        super().__init__(
            lambda parameters, files: trial(parameters),
            params_dict=for_hyper_tuning(space),
            **options,
        )

    def trial(self, params):
        from hyperopt import STATUS_FAIL

        drawn = {parameter.name: parameter.plain(params[parameter.name]) for parameter in self._space}
        try:
            return super().trial(drawn)
        except Exception as error:
            self._failures += 1
            reason = f"{self.params2str(drawn)}: {type(error).__name__}: {error}"
            if not self.params2result and self._failures >= FAILURES:
                raise UserError(f"the first {FAILURES} trials failed, the last with {reason}") from error
            print(f"Trial failed: {reason}", file=sys.stderr)
            return {"loss": sys.float_info.max, "status": STATUS_FAIL}  # early stopping looks for a number


@contextlib.contextmanager
def _hyperopts_seed(seed: int) -> Iterator[None]:
    """HyperTuning hands hyperopt no random generator; from the environment it takes a seed."""
    if os.environ.get("HYPEROPT_FMIN_SEED"):
        yield
        return
    os.environ["HYPEROPT_FMIN_SEED"] = str(seed)
    try:
        yield
    finally:
        del os.environ["HYPEROPT_FMIN_SEED"]
