"""Networks in the catalogue: their parameters and grids. torch is imported when one is made."""

from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator


def _maker(network: str, **fixed: Any) -> Callable[..., BaseEstimator]:
    def make(**params: Any) -> BaseEstimator:
        from emodecode.models.net import NetClassifier

        return NetClassifier(network=network, **(fixed | params))

    return make


_TRAINED = {
    "max_epochs": 150,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "patience": 30,
    "validation_share": 0.2,
    "n_members": 5,
    "choose_by": "loss",
    "l1": 0.0,
    "l2": 0.0,
    "plateau_factor": 1.0,
    "plateau_patience": 50,
    "min_learning_rate": 1e-5,
    "class_weight": "balanced",
    "device": "auto",
}

NETWORK_KINDS: dict[str, tuple[str, Callable[..., BaseEstimator], dict[str, Any], dict]] = {
    "conv1d": (
        "small 1-D network of ours: full-width filters, their products and a linear path, "
        "batch normalisation, noise; five members, each with its epoch chosen on other subjects",
        _maker("conv1d"),
        _TRAINED | {"n_filters": 16, "dropout": 0.25, "noise": 2.0, "weight_decay": 1e-3},
        {"noise": [1.0, 2.0], "n_filters": [8, 16]},
    ),
    "s2_conv1d": (
        "S2's 1-D CNN as published: six linear convolutions, eight dense layers, 17,316,195 "
        "parameters for 300 voxels",
        _maker("s2_conv1d"),
        _TRAINED
        | {
            "max_epochs": 5000,
            "learning_rate": 4.5e-3,
            "patience": None,
            "n_members": 1,
            "choose_by": "accuracy",
            "l1": 0.005,
            "plateau_factor": 0.2,
        },
        {"learning_rate": [4.5e-3, 4.5e-4], "l1": [0.005, 5e-5]},
    ),
    "hanson_mlp": (
        "S2's perceptron as published: ten tanh units shared by all voxels, 9,023 parameters for "
        "300 voxels; the last of 50 epochs",
        _maker("hanson_mlp"),
        _TRAINED | {"max_epochs": 50, "patience": None, "n_members": 1, "validation_share": 0.0},
        {"learning_rate": [1e-4, 1e-3], "l2": [0.0, 1e-3]},
    ),
}
"""Kind -> description, maker, defaults, grid: the fields of `emodecode.models.catalogue.Kind`."""
