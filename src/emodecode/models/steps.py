"""Single steps of a pipeline: fitted and applied one by one, subjects for those that ask."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline


def is_step(step: BaseEstimator | str | None) -> bool:
    """Return whether there is anything to fit: not None, not ``"passthrough"``."""
    return step is not None and not isinstance(step, str)


def fit_step(
    step: BaseEstimator, X: np.ndarray, y: np.ndarray, subjects: np.ndarray | None, **more: Any
) -> None:
    """Fit a step in place; `more` goes to its ``fit`` as it is."""
    step.fit(X, y, **_wanted(step, "fit", subjects), **more)


def asks_for(step: BaseEstimator, method: str, name: str) -> bool:
    """Tell whether a step asked for some metadata (scikit-learn's metadata routing)."""
    return bool(step.get_metadata_routing().consumes(method, [name]))


def asks_for_more(classifier: BaseEstimator) -> bool:
    """Tell whether a classifier asks a fold for more than samples, labels and subjects."""
    return any(asks_for(classifier, "fit", name) for name in ("parts", "moments", "votes"))


def reads_rows(pipeline: Pipeline) -> bool:
    """Tell whether a pipeline is one classifier that reads `Rows` itself, batch by batch."""
    return len(pipeline.steps) == 1 and getattr(pipeline.steps[-1][1], "reads_rows", False)


def fit_transform_step(
    step: BaseEstimator, X: np.ndarray, y: np.ndarray, subjects: np.ndarray | None
) -> np.ndarray:
    """Fit a step in place and return its output for the same samples."""
    if hasattr(step, "fit_transform"):
        return step.fit_transform(X, y, **_wanted(step, "fit_transform", subjects))
    fit_step(step, X, y, subjects)
    return transform_step(step, X, subjects)


def transform_step(step: BaseEstimator, X: np.ndarray, subjects: np.ndarray | None) -> np.ndarray:
    """Return the output of a fitted step."""
    return step.transform(X, **_wanted(step, "transform", subjects))


def _wanted(step: BaseEstimator, method: str, subjects: np.ndarray | None) -> dict:
    """Subjects, where the step asked for them."""
    asks = subjects is not None and asks_for(step, method, "subjects")
    return {"subjects": subjects} if asks else {}
