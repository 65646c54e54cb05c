"""A network decoder as one ONNX graph: features in, probabilities out."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from torch import nn
from torch.nn import functional

from emodecode.errors import InputError
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TakeColumns, TopVoxels
from emodecode.models.steps import is_step
from emodecode.models.temperature import EPS
from emodecode.models.unmask import Unmask

TOLERANCE = 1e-5
"""Largest difference between probabilities of the graph and of the decoder."""

INPUT, OUTPUT = "features", "probabilities"
_FRONT = (VoxelScaler, TopVoxels, TakeColumns)


class Graph(nn.Module):
    """Selection, scaling, the members of a network, their mean and the temperature.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; its last step holds trained networks.
    temperature : float, optional
    """

    def __init__(self, pipeline: Pipeline, temperature: float | None = None) -> None:
        super().__init__()
        *front, classifier = (step for _, step in pipeline.steps)
        self.front = nn.Sequential(*(_as_module(step) for step in front if is_step(step)))
        modules = getattr(classifier, "inference_", classifier.modules_)
        self.members = nn.ModuleList(
            _Volumes(module) if isinstance(module, Unmask) else module for module in modules
        )
        self.temperature = temperature

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``(batch, n_features)`` -> probabilities ``(batch, n_classes)``, float32."""
        scaled = self.front(features)
        each = [torch.softmax(member(scaled), dim=1) for member in self.members]
        mean = torch.stack([part.double() for part in each]).mean(dim=0)
        if self.temperature is not None:
            mean = torch.softmax(_logs_of(mean) / self.temperature, dim=1)
        return mean.float()


def _logs_of(given: torch.Tensor) -> torch.Tensor:
    """As `emodecode.models.temperature.logs_of`, in torch."""
    least = given.new_tensor(EPS)
    smallest = torch.where(given > 0, given, least).amin(dim=1, keepdim=True)
    return torch.log(torch.where(given > 0, given, torch.minimum(smallest, least)))


class _Scale(nn.Module):
    def __init__(self, scaler: VoxelScaler) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(scaler.mean_, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scaler.scale_, dtype=torch.float32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.get_buffer("mean")) / self.get_buffer("scale")


class _Take(nn.Module):
    def __init__(self, columns: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("columns", torch.as_tensor(columns, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.index_select(x, 1, self.get_buffer("columns"))


class _Volumes(nn.Module):
    """`Unmask` for single volumes as one gather, for any number of them."""

    def __init__(self, unmask: Unmask) -> None:
        super().__init__()
        self.unmask, self.shape = unmask, unmask.shape
        inside = unmask.get_buffer("inside")
        place = torch.full((int(np.prod(self.shape)),), len(inside), dtype=torch.int64)
        place[inside] = torch.arange(len(inside))
        self.register_buffer("place", place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(self.unmask._standardise(x), (0, 1))
        volumes = torch.index_select(padded, 1, self.get_buffer("place"))
        return self.unmask.network(volumes.reshape(-1, 1, *self.shape))


def _as_module(step: BaseEstimator) -> nn.Module:
    if isinstance(step, VoxelScaler):
        return _Scale(step)
    return _Take(step.indices_)


def export_graph(
    pipeline: Pipeline,
    path: Path,
    *,
    predict: Callable[[np.ndarray], np.ndarray],
    n_features: int,
    temperature: float | None = None,
) -> float:
    """Write a network decoder as ONNX; the file gets its name when it says the same.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted.
    path : Path
        Replaced if it exists.
    predict : callable
        The decoder: features -> probabilities.
    n_features : int
    temperature : float, optional

    Returns
    -------
    float
        Largest difference of a probability, over random features in batches of 1, 2 and 7.

    Raises
    ------
    InputError
        No network that has a graph, or a difference above `TOLERANCE`.
    """
    path = Path(path)
    _refuse_no_network(pipeline, where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        given = [random_features(pipeline, n_features, n=n, seed=n) for n in (1, 2, 7)]
        try:
            _write(Graph(pipeline, temperature), partial, n_features=n_features)
            found = [run_graph(partial, X) for X in given]
        except Exception as error:  # of torch and onnxruntime, of many kinds
            raise InputError(
                str(path),
                found=f"no graph that runs ({type(error).__name__}: {str(error)[:200]})",
                expected="a network that torch can export",
                remedy="Load the decoder with emodecode.decoder.Decoder.load instead.",
            ) from error
        pairs = zip(found, given, strict=True)
        difference = max(float(np.abs(own - predict(X)).max()) for own, X in pairs)
        if not difference <= TOLERANCE:
            raise InputError(
                str(path),
                found=f"probabilities of the graph differ by {difference:.2g} from the decoder's",
                expected=f"{TOLERANCE:g} at most",
                remedy="Report it with the versions of torch and onnxruntime; the graph was not "
                "kept.",
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def _refuse_no_network(pipeline: Pipeline, *, where: str) -> None:
    """Refuse a pipeline that has no graph."""
    *front, classifier = (step for _, step in pipeline.steps)
    other = [step for step in front if is_step(step) and not isinstance(step, _FRONT)]
    found = None
    if not hasattr(classifier, "modules_"):
        found = f"its classifier is a {type(classifier).__name__}, no network"
    elif (getattr(classifier, "window", None) or 1) > 1:
        found = f"its network reads windows of {classifier.window} volumes"
    elif other:
        found = f"a {type(other[0]).__name__} before the network, which depends on the subject"
    if found is not None:
        raise InputError(
            where,
            found=found,
            expected="a network on single samples, with selection and scaling before it at most",
            remedy="Load the decoder with emodecode.decoder.Decoder.load instead.",
        )


def _write(graph: Graph, path: Path, *, n_features: int) -> None:
    """Write a graph for any number of samples at a time."""
    example = torch.zeros(2, n_features)
    with _quiet():
        torch.onnx.export(
            graph.eval().cpu(),
            (example,),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says about itself and about torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def run_graph(path: Path, X: np.ndarray) -> np.ndarray:
    """Return what ONNX Runtime makes of features (n_samples, n_features)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: Sequence[Any] = session.run([OUTPUT], {INPUT: np.asarray(X, dtype=np.float32)})
    return found[0]


def random_features(pipeline: Pipeline, n_features: int, *, n: int, seed: int) -> np.ndarray:
    """Draw features like those of the training where a step knows their mean and scale."""
    X = np.random.default_rng(seed).normal(size=(n, n_features))
    steps: list[Any] = [step for _, step in pipeline.steps]
    for step in steps:
        mean, scale = getattr(step, "mean_", None), getattr(step, "scale_", None)
        if mean is not None and scale is not None and len(mean) == n_features:
            X = X * np.where(np.isfinite(scale), scale, 0.0) + mean
            break
    return X.astype(np.float32)
