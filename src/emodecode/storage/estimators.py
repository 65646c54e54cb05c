"""Fitted pipelines on disk without pickle: skops for steps, own formats for networks and trees.

Only types of `TRUSTED` come out of a file, beside those of scikit-learn, numpy and Python itself
that skops trusts: nothing in a file can name another class or function to call.
"""

import copy
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sklearn
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from emodecode.errors import ContractError
from emodecode.models.steps import is_step
from emodecode.storage.folder import changed

STEPS = "estimators.skops"
TREES = "trees.ubj"

STEP_TYPES = (
    "emodecode.align.space.CommonSpace",
    "emodecode.features.own.OwnVoxels",
    "emodecode.features.scale.VoxelScaler",
    "emodecode.features.select.TakeColumns",
    "emodecode.features.select.TopVoxels",
    "emodecode.models.linear.LinearByGram",
    "emodecode.models.perceptron.Perceptron",
    "emodecode.models.rbf.RbfSvm",
    "emodecode.models.trees.BoostedTrees",
    "sklearn.dummy.DummyClassifier",
    "sklearn.ensemble._forest.RandomForestClassifier",
)
"""Steps of a pipeline that skops stores."""

TRUSTED = (
    *(name for name in STEP_TYPES if name.startswith("emodecode.")),
    "emodecode.align.frozen.Space",
    "emodecode.align.linearmap.LinearMap",
    "emodecode.align.piecewise.PieceMap",
    "emodecode.models.lda.ShrunkLda",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)
"""Types that a file may hold beside those that skops itself trusts."""

_ASKED = ("fit", "transform", "predict_proba", "predict")
"""Methods for which a step may have asked for metadata, such as subjects."""


def store_pipeline(pipeline: Pipeline, folder: Path) -> list[dict[str, Any]]:
    """Write a fitted pipeline into a folder.

    Parameters
    ----------
    pipeline : Pipeline
        Steps of the catalogue, fitted.
    folder : Path
        Must be there.

    Returns
    -------
    list of dict
        ``name type requests`` and, of networks, ``network``, for each step: what `load_pipeline`
        needs beside the files.

    Raises
    ------
    ContractError
        A step of a type that cannot be stored.
    """
    described, plain = [], []
    for name, step in pipeline.steps:
        if not is_step(step):
            continue
        entry = {"name": name, "type": type_name(step), "requests": _requests(step)}
        if hasattr(step, "modules_"):
            from emodecode.storage.networks import store_network

            entry["network"] = store_network(step, folder)
        elif entry["type"] in STEP_TYPES:
            plain.append(_without_what_is_stored_elsewhere(step, folder))
        else:
            raise ContractError(
                f"step {name}",
                found=f"a {entry['type']}",
                expected=f"one of {', '.join(each.rpartition('.')[2] for each in STEP_TYPES)}",
                remedy="Use a decoder of the catalogue (docs/models.md).",
            )
        described.append(entry)
    if plain:
        from skops.io import dump

        dump(plain, folder / STEPS, compression=zipfile.ZIP_DEFLATED)
    return described


def load_pipeline(folder: Path, described: Sequence[dict[str, Any]]) -> Pipeline:
    """Read what `store_pipeline` wrote; no code from the files is run.

    Raises
    ------
    ContractError
        A file that holds other types, or cannot be read.
    """
    plain = [entry for entry in described if "network" not in entry]
    stored = iter(_load_steps(folder, [entry["type"] for entry in plain]))
    steps: list[tuple[str, Any]] = []
    for entry in described:
        if "network" in entry:
            from emodecode.storage.networks import load_network

            step = load_network(folder, entry["network"])
        else:
            step = next(stored)
        _ask(step, entry["requests"])
        steps.append((entry["name"], step))
    return Pipeline(steps)


def type_name(step: BaseEstimator) -> str:
    """Return the full name of a step's class."""
    return f"{type(step).__module__}.{type(step).__qualname__}"


def _load_steps(folder: Path, types: list[str]) -> list[BaseEstimator]:
    if not types:
        return []
    from skops.io import load
    from skops.io.exceptions import UntrustedTypesFoundException

    path = folder / STEPS
    try:
        steps = load(path, trusted=list(TRUSTED))
    except UntrustedTypesFoundException as error:
        raise changed(path, f"types that no decoder consists of ({error})") from error
    except Exception as error:  # whatever is wrong with it, it is not what was written
        raise changed(path, f"not readable ({type(error).__name__}: {error})") from error
    found = [type_name(step) for step in steps] if isinstance(steps, list) else type(steps)
    if found != types:
        raise changed(path, f"{found} instead of {types}")
    for step, name in zip(steps, types, strict=True):
        if name.endswith(".BoostedTrees"):
            step.trees_ = _load_trees(step, folder / TREES)
    return steps


def _without_what_is_stored_elsewhere(step: BaseEstimator, folder: Path) -> BaseEstimator:
    """Copy a step without its metadata requests, which refer to it, and without its trees."""
    bare = copy.copy(step)
    vars(bare).pop("_metadata_request", None)
    trees = vars(bare).pop("trees_", None)
    if trees is not None:
        trees.save_model(folder / TREES)
    return bare


def _load_trees(step: Any, path: Path) -> Any:
    trees = step._trees()
    try:
        trees.load_model(path)
    except Exception as error:  # xgboost raises its own kinds
        raise changed(path, f"no trees of xgboost ({type(error).__name__})") from error
    return trees


def _requests(step: BaseEstimator) -> dict[str, dict[str, bool]]:
    """Metadata that a step asked for: method -> name -> yes or no."""
    routing = step.get_metadata_routing()
    found = {method: getattr(routing, method).requests for method in _ASKED}
    asked = {
        method: {name: wish for name, wish in wishes.items() if isinstance(wish, bool)}
        for method, wishes in found.items()
    }
    return {method: wishes for method, wishes in asked.items() if wishes}


def _ask(step: Any, requests: dict[str, dict[str, bool]]) -> None:
    with sklearn.config_context(enable_metadata_routing=True):
        for method, wishes in requests.items():
            getattr(step, f"set_{method}_request")(**wishes)
