"""Networks in the catalogue: their parameters and grids. torch is imported when one is made."""

from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator


def _maker(network: str, **fixed: Any) -> Callable[..., BaseEstimator]:
    def make(**params: Any) -> BaseEstimator:
        from emodecode.models.net import NetClassifier

        return NetClassifier(network=network, **(fixed | params))

    return make


def _volume_maker(network: str) -> Callable[..., BaseEstimator]:
    def make(**params: Any) -> BaseEstimator:
        from emodecode.models.volumenet import VolumeNetClassifier

        return VolumeNetClassifier(network=network, **params)

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

_VOLUMES = {
    "max_epochs": 50,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "weight_decay": 1e-4,
    "l1": 0.0,
    "l2": 0.0,
    "plateau_factor": 1.0,
    "plateau_patience": 30,
    "min_learning_rate": 1e-6,
    "patience": None,
    "choose_by": "loss",
    "validation_share": 0.2,
    "n_members": 1,
    "class_weight": "balanced",
    "soft_labels": False,
    "normalise": "voxel",
    "window": None,
    "window_by": "attention",
    "shift_vox": 0,
    "intensity": 0.0,
    "device": "auto",
    "precision": "auto",
    "accumulate": 1,
    "compile": False,
    "n_workers": 0,
}

_S2B = {
    "depth": 50,
    "max_epochs": 1250,
    "batch_size": 32,
    "schedule": "plateau",
    "weight_decay": 0.0,
    "l2": 2e-4,
    "plateau_factor": 0.3,
    "choose_by": "accuracy",
    "class_weight": None,
    "normalise": None,
}

VOLUME_KINDS: dict[str, tuple[str, Callable[..., BaseEstimator], dict[str, Any], dict]] = {
    "small3d": (
        "small separable 3-D network of ours that reads products of regions; trains on a laptop",
        _volume_maker("small3d"),
        _VOLUMES
        | {"n_filters": 36, "dropout": 0.0, "noise": 1.0}
        | {"max_epochs": 25, "batch_size": 64, "learning_rate": 4e-3, "weight_decay": 3.0}
        | {"schedule": "plateau", "n_members": 3},
        {"noise": [0.5, 1.0, 2.0]},
    ),
    "separable3d": (
        "S1's depthwise-separable 3-D CNN, 424,549 parameters for five classes, and S1's recipe: "
        "AdamW, cosine, 50 epochs of batches of 16",
        _volume_maker("separable3d"),
        _VOLUMES | {"dropout": 0.3, "patience": 10, "choose_by": "accuracy", "class_weight": None},
        {"learning_rate": [1e-3, 3e-4]},
    ),
    "resnet3d": (
        "3-D residual network of depth 18, 34, 50, 101 or 152",
        _volume_maker("resnet3d"),
        _VOLUMES | {"depth": 18, "patience": 15},
        {"weight_decay": [1e-4, 1e-2]},
    ),
    "s2_resnet3d": (
        "S2-B's recipe on a 3-D ResNet-50: Adam, plateau .3 after 30 epochs, batches of 32, "
        "1,250 epochs, L2 of 2e-4, volumes as they come",
        _volume_maker("resnet3d"),
        _VOLUMES | _S2B,
        {"l2": [2.5e-3, 1e-3, 5e-4, 2e-4]},
    ),
    "efficientnet3d": (
        "3-D EfficientNet of size b0 to b7",
        _volume_maker("efficientnet3d"),
        _VOLUMES | {"size": "b0", "patience": 15},
        {"weight_decay": [1e-4, 1e-2]},
    ),
}
"""As `NETWORK_KINDS`, of the networks that read whole volumes."""
