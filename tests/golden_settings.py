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


SETTINGS = {"GLINTRU": glintru}

# Settings that turn the default semantics into the published code's.
PUBLISHED = {"GLINTRU": {"mask_padding": False}}
