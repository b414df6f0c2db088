"""The texts of `--help`. They are read from files: neither PyTorch nor a model is imported."""

import ast
import importlib
import importlib.util
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Optional

import recbole  # cheap, unlike its modules
import yaml

from recbole_glintru import plugin
from recbole_glintru.launch import protocol

COMMAND = """\
usage: {usage}

Trains a model on a data set and evaluates it, with RecBole.

  --model, -m      the model, {model} by default; with --help: its settings
  --dataset, -d    the data set, {dataset} by default: DIR/<dataset>/<dataset>.inter with --data_path=DIR,
                   or RecBole's download of that name
  --config_files   YAML files with settings, separated by blanks; quote a name with blanks inside the value
  --protocol       the paper's protocol to apply, by default that of the data set: none, or one of
                   {protocols}
  --nproc, --ip, --port, --world_size, --group_offset
                   training in several processes, as in RecBole; on CPUs if there are no GPUs, or with
                   --use_gpu=False
  --process_timeout  seconds that one of them waits for another, 600 by default
  --key=value      any setting of RecBole (recbole.io/docs, "Config Settings") or of the model
  --accelerate     True: a sequential model of RecBole's encodes each distinct history once in evaluation, and
                   batches are cut into groups of similar length; same results, except for the random numbers of
                   dropout, or an error that says why not
  --length_groups  these groups: True, False, measured, or their costs [group, step]; GLINTRU needs none
  --compact_evaluation
                   False: RecBole's own loader in sampled evaluation; the same metrics, more slowly
  --check_data     False: do not check the data for what would end training or make it worthless
  --data_on_device True: the training data stay on the GPU; same batches, same order

The model's defaults, the protocol, the files, the command line: each overrides those before.

Models added to RecBole:
{added}

RecBole's sequential models (its others run too):
{sequential}"""


def command_help(usage: str, model: str, dataset: str) -> str:
    """The help of the command: its options, and the models by name."""
    added = plugin.announced_models()
    width = max(map(len, added))
    stems = {file.stem for file in Path(recbole.__file__).parent.glob("model/sequential_recommender/*.py")}
    sequential = [name for name in plugin.model_names() if name not in added and name.lower() in stems]
    return COMMAND.format(
        usage=usage,
        model=model,
        dataset=dataset,
        protocols=", ".join(protocol.files()),
        added="\n".join(f"  {name:{width}}  {first_line(entry)}" for name, entry in sorted(added.items())),
        sequential=textwrap.fill(", ".join(sequential), 100, initial_indent="  ", subsequent_indent="  "),
    )


def model_help(model: str, applied: Optional[str]) -> str:
    """The settings of a model, from its own YAML, and those that the protocol `applied` overrides.

    Raises:
        ValueError: there is no such model; the message lists the nearest names.
    """
    if model not in plugin.model_names():
        raise ValueError(plugin.unknown_model_message(model))
    entry = plugin.announced_models().get(model)
    package = plugin.package_of(model)
    importlib.import_module(package)
    file = plugin.properties(package) / "model" / f"{model}.yaml"
    own = textwrap.indent(file.read_text(encoding="utf-8").rstrip(), "  ")
    described = first_line(entry) if entry else "one of RecBole's own models"
    text = f"{model}: {described}\n\nIts settings, --key=value, and their defaults:\n\n{own}\n\n"
    if applied is None:
        return text + f"With --dataset={' or '.join(protocol.files())}: also what the protocol overrides."
    above = yaml.safe_dump(protocol.settings(applied, model), sort_keys=False, default_flow_style=None)
    return text + f"The protocol of {applied} overrides:\n\n{textwrap.indent(above.rstrip(), '  ')}"


def first_line(entry: EntryPoint) -> str:
    """The first line of a model's docstring, read from its source; empty if there is none."""
    module, _, name = entry.value.partition(":")
    package, *inside = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder, *inside).with_suffix(".py")
        if file.is_file():
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and node.name == name:
                    return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
