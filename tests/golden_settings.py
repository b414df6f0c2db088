"""How a golden file's description of a published model reads as settings of ours: one function a model.

A function takes the file's `config` (a dict) and returns the settings that differ from the model's defaults; keys that
all models share (`hidden_size`, `MAX_ITEM_LIST_LENGTH`) are set by the test itself.
"""


def glintru(config):
    return {
        "n_layers": config.get("n_layers", 1),
        "n_heads": config["n_heads"],
        "gru_layers": config.get("gru_layers", 1),
        "kernel_size": config.get("kernel_size", 3),
        "gate_activation": config.get("gate_act", "SiLU").lower(),
        "layer_norm_eps": config["layer_norm_eps"],
    }


def smlp4rec(config):
    return {
        "n_layers": config["n_layers"],
        "expansion": config["expansion_factor"],
        "selected_features": config["selected_features"],
        "numerical_features": config.get("numerical_features", []),
        "pooling_mode": config["pooling_mode"],
        "layer_norm_eps": config["layer_norm_eps"],
    }


def fmlprec(config):
    return {
        "n_layers": config["n_layers"],
        "inner_size": config["inner_size"],
        "hidden_act": config["hidden_act"],
        "layer_norm_eps": config["layer_norm_eps"],
    }


def linrec(config):
    return {
        "n_layers": config["n_layers"],
        "n_heads": config["n_heads"],
        "inner_size": config["inner_size"],
        "hidden_act": config["hidden_act"],
        "layer_norm_eps": config["layer_norm_eps"],
    }


def lrurec(config):
    return {
        "n_layers": config["n_blocks"],
        "inner_size": 4 * config["hidden_size"],
        "state_expansion": config["state_size"] // config["hidden_size"],
        "layer_norm_eps": config["layer_norm_eps"],
    }


def mamba(config):
    return {name: config[name] for name in ("d_state", "d_conv", "expand")}


def mamba4rec(config):
    return {**mamba(config), "n_layers": config["num_layers"], "layer_norm_eps": config["layer_norm_eps"]}


def sigma(config):
    return {**mamba4rec(config), "flip_prefix": config["flip_prefix"]}


SETTINGS = {
    "GLINTRU": glintru,
    "SMLP4Rec": smlp4rec,
    "MLP4Rec": smlp4rec,
    "FMLPRec": fmlprec,
    "LinRec": linrec,
    "LRURec": lrurec,
    "Mamba4Rec": mamba4rec,
    "RecMamba": mamba,
    "SIGMA": sigma,
}

# Settings that turn the default semantics into the published code's.
PUBLISHED = {
    "GLINTRU": {"mask_padding": False},
    "LinRec": {"mask_padding": False},
    "SMLP4Rec": {"mask_padding": False},
    "MLP4Rec": {"mask_padding": False},
    "RecMamba": {"left_padding": True},
    "SIGMA": {"semantics": "published"},
}

# The `loss_type` that is the authors' own objective, `loss_official`, where that is neither CE nor BPR.
OFFICIAL_LOSS = {"LRURec": "CE_all", "FMLPRec": "BCE", "RecMamba": "BCE"}

# How many arrays of a name, or of a group of names, the files of tests/golden have between them.
RECORDED = {
    "seq_output": 23,
    "full_sort_scores": 23,
    "predict_scores": 16,
    "loss_ce": 23,
    "loss_bpr": 16,
    "loss_official": 5,
    "gradnorm/": 723,
    "gradnorm_official/": 93,
    "f64/seq_output": 14,
    "f64/full_sort_scores": 14,
    "f64/loss_ce": 12,
    "clean/seq_output": 14,
    "clean/full_sort_scores": 11,
    "clean/loss_ce": 11,
    "clean/gradnorm/": 418,
    "f64/clean/seq_output": 8,
    "ablation/": 24,
    "ablation_clean/": 16,
    "pad_plus10/seq_output": 1,
    "initstat/": 610,
}
