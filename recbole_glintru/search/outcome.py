"""The outcome of a search: the trials, the best of them, and the files that record both."""

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import yaml

from recbole_glintru.launch import protocol
from recbole_glintru.launch.errors import user_errors
from recbole_glintru.search.trial import Fixed


class Outcome:
    """The finished trials, and the files that record them, rewritten after each.

    Args:
        fixed: what the trials share.
        applied: the name of the protocol, part of what they share.
        bigger: whether a higher validation score is better.
        output_file, best_file: where to write.
    """

    def __init__(self, fixed: Fixed, applied: Optional[str], bigger: bool, output_file: Path, best_file: Path):
        self.fixed, self.applied, self.bigger = fixed, applied, bigger
        self.output_file, self.best_file = output_file, best_file
        self.trials: list[tuple[dict[str, Any], dict[str, Any]]] = []

    @property
    def best(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Parameters and result of the best trial, the first one if several are equal."""
        choose = max if self.bigger else min
        return choose(self.trials, key=lambda trial: trial[1]["best_valid_score"])

    def add(self, parameters: dict[str, Any], result: dict[str, Any]) -> None:
        """Add a trial, and write both files.

        Raises:
            UserError: one cannot be written.
        """
        from recbole.trainer import HyperTuning

        self.trials.append((parameters, result))
        by_name = {HyperTuning.params2str(tried): of_it for tried, of_it in self.trials}
        with user_errors(OSError):
            HyperTuning.export_result(SimpleNamespace(params2result=by_name), str(self.output_file))
            if self.best[0] is parameters:
                self.best_file.write_text(self._best_settings(), encoding="utf-8")

    def show(self, display_file: Optional[str]) -> None:
        """Print the best trial, and plot the scores into a file if one is named."""
        from recbole.trainer import HyperTuning

        parameters, result = self.best
        print("best params: ", parameters)
        print("best result: ")
        print(result)
        name = shlex.quote(shlex.quote(str(self.best_file)))  # for the shell, and for --config_files
        words = [*self._protocol_option(), f"--config_files={name}"]
        print(f"All trials: {self.output_file}; the best one's settings: {' '.join(words)}")
        if display_file:
            drawn = SimpleNamespace(model=self.fixed.model, display_file=display_file)
            drawn.params_list = [HyperTuning.params2str(tried) for tried, _ in self.trials]
            drawn.score_list = [of_it["best_valid_score"] for _, of_it in self.trials]
            HyperTuning.plot_hyper(drawn)

    def _best_settings(self) -> str:
        """The best trial as a single file: protocol, the user's files and command line, and the parameters found."""
        parameters, result = self.best
        config = self.fixed.merged(parameters)
        words = " ".join([*self._protocol_option(), "--config_files"])
        head = f"# The best of a search: validation score {result['best_valid_score']:.4f}. All that differs from\n"
        head += f"# the defaults of RecBole and {self.fixed.model}, for {words}. Found by the search: "
        settings = yaml.safe_dump(_plain(config.external_config_dict), sort_keys=False, default_flow_style=None)
        return f"{head}{', '.join(parameters)}.\n{settings}"

    def _protocol_option(self) -> list[str]:
        """The option that keeps a protocol other than that of the trials from being applied below the file."""
        if self.applied == protocol.choose(None, self.fixed.dataset):
            return []
        return [f"--protocol={self.applied or 'none'}"]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value
