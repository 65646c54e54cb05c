"""Parameters of decoders: which values they may take."""

import re
from typing import Any

import numpy as np

_POSITIVE = "a number above 0"
_COUNT = "a whole number from 1"
_CHOICES = {
    "class_weight": ("balanced", "none", None),
    "activation": ("relu", "tanh", "logistic", "identity"),
    "strategy": ("prior", "most_frequent", "stratified", "uniform"),
    "choose_by": ("loss", "accuracy"),
    "depth": (18, 34, 50, 101, 152),
    "size": ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"),
    "window_by": ("attention", "gru"),
    "normalise": ("voxel", "volume", "none", None),
    "schedule": ("plateau", "cosine"),
    "precision": ("auto", "float32", "bf16"),
    "soft_labels": (True, False),
    "compile": (True, False),
}
_COUNTS = (
    *("n_estimators", "max_iter", "max_bin", "max_voxels", "n_voxels", "min_samples_leaf"),
    *("max_epochs", "plateau_patience", "n_members", "n_filters"),
    "accumulate",
)
_FROM_ZERO = ("l1", "l2", "weight_decay", "noise", "intensity")
_SHARES = ("subsample", "colsample_bynode", "plateau_factor")


def what_is_expected(name: str, value: Any) -> str | None:
    """Say what a parameter of that name may be; None if this value is good."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    good, expected = number and value > 0 and np.isfinite(value), _POSITIVE
    if name in _CHOICES:
        good = value in _CHOICES[name]
        expected = "one of " + ", ".join(str(choice) for choice in _CHOICES[name])
    elif name in _COUNTS:
        good, expected = whole and value >= 1, _COUNT
    elif name == "batch_size":
        good, expected = whole and value >= 2, "a whole number from 2"
    elif name in ("n_workers", "shift_vox"):
        good, expected = whole and value >= 0, "a whole number from 0"
    elif name in ("max_depth", "patience", "window"):
        good, expected = value in (None, "none") or (whole and value >= 1), f"{_COUNT}, or none"
    elif name == "shrinkage":
        good, expected = value == "auto" or (number and 0 <= value <= 1), '"auto", or 0 to 1'
    elif name in _SHARES:
        good, expected = number and 0 < value <= 1, "a share above 0, at most 1"
    elif name in ("validation_share", "dropout"):
        good, expected = number and 0 <= value < 1, "a share from 0 to below 1"
    elif name in _FROM_ZERO:
        good, expected = number and value >= 0 and np.isfinite(value), "a number from 0"
    elif name == "gamma":
        good, expected = value == "scale" or (number and value > 0), f'"scale", or {_POSITIVE}'
    elif name == "device":
        good = isinstance(value, str) and re.fullmatch(r"auto|cpu|cuda(:\d+)?", value) is not None
        expected = "auto, cpu, cuda or cuda:NUMBER"
    elif name == "hidden_layer_sizes":
        good = isinstance(value, list | tuple) and all(isinstance(n, int) and n > 0 for n in value)
        expected = "a list of whole numbers from 1"
    elif name == "max_features":
        good, expected = value in ("sqrt", "log2") or (number and value > 0), "sqrt, log2, a number"
    elif name == "n_jobs":
        good, expected = whole and (value == -1 or value >= 1), f"{_COUNT}, or -1"
    return None if good else expected
