"""A search on one machine, one trial after the other, with RecBole's HyperTuning, which uses hyperopt."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, Callable, Optional

from recbole.trainer import HyperTuning

from recbole_glintru.launch.errors import UserError
from recbole_glintru.search.space import Parameter, for_hyper_tuning

FAILURES = 3  # after so many trials without a success, the parameters are not to blame


def search(
    trial: Callable[[dict[str, Any]], dict[str, Any]],
    space: list[Parameter],
    algo: str = "exhaustive",
    max_evals: Optional[int] = None,
    early_stop: int = 10,
    seed: int = 0,
    finished: Callable[[dict[str, Any], dict[str, Any]], None] = lambda parameters, result: None,
) -> None:
    """Run `trial` with parameters from the space.

    Args:
        trial: called with parameters, by name; returns what RecBole's `objective_function` returns.
        algo: "exhaustive", "random" or "bayes".
        max_evals: the most trials; by default all if exhaustive, otherwise 100.
        early_stop: the search ends after so many trials without a better one.
        seed: for drawing parameters.
        finished: called with parameters and result of every trial that has not failed; its errors end the search.

    Raises:
        UserError: the first trials have all failed. A later failure ends only that trial.
    """
    tuning = _Tuning(trial, space, finished, algo=algo, max_evals=max_evals or 100, early_stop=early_stop)
    if algo == "exhaustive":  # RecBole has set it to the size of the space
        tuning.max_evals = min(math.prod(len(parameter.values) for parameter in space), max_evals or sys.maxsize)
    from hyperopt.exceptions import AllTrialsFailed

    with _hyperopt_seed(seed), contextlib.suppress(AllTrialsFailed):  # each has reported why, see below
        tuning.run()


class _Tuning(HyperTuning):
    """HyperTuning that continues after a failed trial."""

    def __init__(self, trial, space, finished, **options):
        self._space, self._finished, self._failures = space, finished, 0
        super().__init__(
            lambda parameters, files: trial(parameters),
            params_dict=for_hyper_tuning(space),
            **options,
        )

    def trial(self, params):
        from hyperopt import STATUS_FAIL

        drawn = {parameter.name: parameter.plain(params[parameter.name]) for parameter in self._space}
        try:
            judged = super().trial(drawn)
        except Exception as error:
            self._failures += 1
            reason = f"{self.params2str(drawn)}: {type(error).__name__}: {error}"
            if not self.params2result and self._failures >= FAILURES:
                raise UserError(f"the first {FAILURES} trials failed, the last with {reason}") from error
            print(f"Trial failed: {reason}", file=sys.stderr)
            return {"loss": sys.float_info.max, "status": STATUS_FAIL}  # early stopping needs a number
        self._finished(drawn, self.params2result[self.params2str(drawn)])
        return judged


@contextlib.contextmanager
def _hyperopt_seed(seed: int) -> Iterator[None]:
    """Set hyperopt's seed in the environment, because HyperTuning passes it no random generator."""
    if os.environ.get("HYPEROPT_FMIN_SEED"):
        yield
        return
    os.environ["HYPEROPT_FMIN_SEED"] = str(seed)
    try:
        yield
    finally:
        del os.environ["HYPEROPT_FMIN_SEED"]
