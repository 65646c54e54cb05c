"""Small fitted decoders: three classes, three subjects, 27 volumes of a mask of 145 voxels."""

import nibabel as nib
import numpy as np
import sklearn

from emodecode.contract import Contract
from emodecode.models.catalogue import KINDS, make_pipeline_for

CLASSES = ("calm", "fear", "joy")
SHAPE = (8, 7, 6)
AFFINE = np.array([[-3.1, 0.2, 0, 90.123456789], [0, 3, 0, -126], [0, 0, 3.5, -72], [0, 0, 0, 1]])
INSIDE = np.random.default_rng(1).random(SHAPE) < 0.4
MASK = nib.Nifti1Image(INSIDE.astype(np.uint8), AFFINE)

PER_VOLUME = {"detrend": False, "high_pass_hz": 0.0, "low_pass_hz": None, "standardize": "none"}
"""Cleaning that needs no other volume."""

_FEW = {"max_epochs": 2, "n_members": 2, "n_estimators": 5}


Y = np.array([name for name in CLASSES for _ in range(3)] * 3)
SUBJECTS = np.repeat(["01", "02", "03"], 9)
MOMENTS = np.stack([np.repeat([0, 1, 2], 9), np.tile(np.arange(9), 3)], axis=1)
X = np.random.default_rng(0).normal(size=(len(Y), INSIDE.sum())).astype(np.float32)
X += np.array([CLASSES.index(name) for name in Y], np.float32)[:, None] * 0.3


def make_contract(**more):
    """Return the contract of these samples."""
    given = {"classes": CLASSES, "features": "voxels", "n_features": int(INSIDE.sum())}
    return Contract(**(given | {"mask": MASK, "tr_s": 2.0, "clean": PER_VOLUME} | more))


def fit(kind, params=None, **choices):
    """Fit a pipeline of the catalogue on the samples, briefly."""
    few = {name: value for name, value in _FEW.items() if name in KINDS[kind].defaults}
    params = few | (params or {})
    if KINDS[kind].reads_volumes:
        choices, params = {"mask": INSIDE}, params | {"device": "cpu"}
    pipeline = make_pipeline_for(kind, params=params, **choices)
    wants = pipeline.get_metadata_routing().consumes("fit", ["subjects"])
    asked = {"subjects": SUBJECTS} if wants else {}
    if (params.get("window") or 1) > 1:
        asked["moments"] = MOMENTS
    with sklearn.config_context(enable_metadata_routing=True):
        return pipeline.fit(X, Y, **asked)
