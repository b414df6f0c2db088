"""The cells of each table and figure of the paper."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from reproduction.cells import Cell, cell, own_names

PAPER = json.loads((Path(__file__).resolve().parent.parent / "paper_tables.json").read_text(encoding="utf-8"))
METRICS = ("Recall@10", "MRR@10", "NDCG@10")
IN_THE_PAPER = ("GRU4Rec", "BERT4Rec", "SASRec", "LinRec", "LightSANs", "SMLP4Rec", "Mamba4Rec", "GLINTRU")
ALL = (*IN_THE_PAPER, "NARM", "FMLPRec", "LRURec", "MLP4Rec", "RecMamba", "SIGMA", "SSEPT")
# What text, tables and published code state differently, or not at all.
LEFT_OPEN = {
    "n_layers=2": {"n_layers": 2},  # Table 5; the text has one
    "gru_layers=2": {"gru_layers": 2},  # the published code reads this setting but does not define it
    # Not defined by the published code either; Table 5 has one dropout for all, 0.5. RecBole's default is 0.3.
    "embedding_dropout_prob=0.3": {"embedding_dropout_prob": 0.3},
    "embedding_dropout_prob=0.6": {"embedding_dropout_prob": 0.6},
    "embedding_dropout_prob=0.7": {"embedding_dropout_prob": 0.7},
    # Table 5 has 0.5 for Beauty and Video Games; the published code 0.3, whatever the data.
    "gate, mix and MLP dropout 0.5": {f"{part}_dropout_prob": 0.5 for part in ("gate", "mix", "mlp")},
    "padding included": {"mask_padding": False, "pad_row_init": "random"},  # published
    "share_block_norm=False": {"share_block_norm": False},
    "attention_output_block=False": {"attention_output_block": False},  # eq. 10
    "mix_output_linear=False": {"mix_output_linear": False},  # eq. 11
    "key_norm=sequence": {"key_norm": "sequence"},  # eq. 2
    "gru_bias=True": {"gru_bias": True},  # eq. 1
}
EQUATIONS = ("share_block_norm=False", "attention_output_block=False", "mix_output_linear=False", "key_norm=sequence")
EQUATIONS += ("gru_bias=True", "gate, mix and MLP dropout 0.5")
KERNEL = {"GLINTRU": "kernel_size", "Mamba4Rec": "d_conv"}  # each model's own name for the width of its convolution


@dataclass(frozen=True)
class Variant:
    """A row of a table or a point of a figure.

    Args:
        label: as in the paper, and as in `paper_tables.json`.
        model, changes: as in `Cell`.
        value: of what a figure varies.
        own: what the user has changed for this model alone, below `changes`.
    """

    label: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    value: Optional[float] = None
    own: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A table or a figure.

    Args:
        title: what it shows.
        dataset: the paper's; of Table 2 the first.
        kind: "models", "parts", "activations", "layers", "kernel", "width", "mixing" or "variations": what is varied.
        values: what a number is varied over, unless the user says otherwise; the paper does not print its own.
    """

    title: str
    dataset: str
    kind: str
    values: tuple[int, ...] = ()


EXPERIMENTS = {
    "table2": Experiment("Overall accuracy", "amazon-beauty", "models"),
    "table4": Experiment("Ablation", "ml-1m", "parts"),
    "table6": Experiment("Activation inside the selective gate", "amazon-beauty", "activations"),
    "table7": Experiment("Cost of 1 to 4 layers", "amazon-beauty", "layers", (1, 2, 3, 4)),
    "table8": Experiment("Ablation", "amazon-video-games", "parts"),
    "table9": Experiment("Ablation", "amazon-beauty", "parts"),
    "variations": Experiment("What paper and published code leave open, one at a time", "amazon-beauty", "variations"),
    "figure2": Experiment("Mixing weights of the two experts during training", "amazon-beauty", "mixing"),
    "figure3": Experiment("Accuracy and memory by kernel size", "amazon-beauty", "kernel", (1, 3, 5, 7, 9)),
    "figure4": Experiment("Time by kernel size", "amazon-beauty", "kernel", (1, 3, 5, 7, 9)),
    "figure5": Experiment("Accuracy and time by hidden size", "amazon-beauty", "width", (16, 32, 64, 128)),
    "figure6": Experiment("Accuracy by number of layers", "amazon-beauty", "layers", (1, 2, 3, 4)),
}


def variants(name: str, models: Optional[list[str]] = None, values: Optional[list[int]] = None) -> list[Variant]:
    """The rows or points of a table or figure.

    Args:
        models: instead of the paper's, where models are compared.
        values: instead of the experiment's own, where a number is varied.
    """
    experiment = EXPERIMENTS[name]
    values = list(values or experiment.values)
    if experiment.kind == "models":
        return [Variant(model, model) for model in models or IN_THE_PAPER]
    if experiment.kind == "parts":
        parts = ("use_gru", "use_linear_attention", "use_temporal_conv", "use_gated_mlp")
        return [Variant("default", "GLINTRU"), *(Variant(f"{part}=False", "GLINTRU", {part: False}) for part in parts)]
    if experiment.kind == "variations":
        left_open = [Variant(label, "GLINTRU", changes) for label, changes in LEFT_OPEN.items()]
        equations = {key: value for label in EQUATIONS for key, value in LEFT_OPEN[label].items()}
        return [Variant("default", "GLINTRU"), *left_open, Variant("as the equations say", "GLINTRU", equations)]
    if experiment.kind == "activations":
        names = ("silu", "relu", "sigmoid", "elu")
        return [Variant(name, "GLINTRU", {"gate_activation": name}) for name in names]
    if experiment.kind == "layers":
        return [Variant(str(value), "GLINTRU", {"n_layers": value}, value) for value in values]
    if experiment.kind == "kernel":
        return [Variant(model, model, {KERNEL[model]: value}, value) for model in KERNEL for value in values]
    if experiment.kind == "width":
        return [
            Variant(model, model, {"hidden_size": value, "embedding_size": value}, value)
            for model in models or IN_THE_PAPER
            for value in values
        ]
    return [Variant("GLINTRU", "GLINTRU")]


def cells(
    variant: Variant, dataset: str, protocol: str, seeds: list[int], changes: Optional[dict[str, Any]] = None
) -> list[Cell]:
    """A cell for each seed; `changes` are the user's, for every model."""
    levels = (own_names(variant.model, level) for level in (changes or {}, variant.own, variant.changes))
    merged = {key: value for level in levels for key, value in level.items()}
    return [cell(dataset, protocol, variant.model, seed, merged) for seed in seeds]
