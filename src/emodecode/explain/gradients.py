"""Gradient maps of networks: integrated gradients and Grad-CAM, in the columns of X."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import OneToOneFeatureMixin
from sklearn.pipeline import Pipeline
from torch import nn

from emodecode.errors import InputError
from emodecode.explain.places import last_maps, module_named, no_places, spreads
from emodecode.features.scale import check_width
from emodecode.models.batches import find_windows, read_windows
from emodecode.models.members import alone, resolve_device
from emodecode.models.net import NetClassifier
from emodecode.models.rows import Rows, as_rows
from emodecode.models.unmask import Unmask
from emodecode.models.volumenet import VolumeNetClassifier

Target = str | Sequence[str] | np.ndarray
"""A class, or the class of each sample."""


def integrated_gradients(
    fitted: Any,
    X: "np.ndarray | Rows",
    *,
    target: Target,
    baseline: float | np.ndarray = 0.0,
    n_steps: int = 32,
    moments: np.ndarray | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Return integrated gradients of the logit of a class, averaged over the members.

    ::

        IG_v = (z_v - b_v) * integral over a from 0 to 1 of dlogit/dz_v (b + a (z - b)) da

    z is the sample as the network reads it, after the pipeline's steps and after the classifier's
    own standardisation (``normalise``); each of these is of one column by itself, so IG_v belongs
    to that column of `X`. The values of a sample add up to logit(z) - logit(b), as far as
    `n_steps` points (Gauss-Legendre) give the integral; for a linear network they are weight times
    (z - b).

    Parameters
    ----------
    fitted : Pipeline, NetClassifier or VolumeNetClassifier
        Of a pipeline the steps before the network select or scale columns.
    X : ndarray or Rows, shape (n_samples, n_features)
    target : str or array of str, shape (n_samples,)
        A class, or one for each sample.
    baseline : float or ndarray of shape (n_read,) or (n_samples, n_read)
        b, in the values that the network reads. 0 is the training mean of each voxel where the
        data are standardised by voxel, and the volume's own mean with ``normalise="volume"``.
    n_steps : int
        More for networks with ReLU, whose gradient jumps: see `logit_change`.
    moments : ndarray of int, shape (n_samples, 2), optional
        Of a windowed network; see `VolumeNetClassifier.predict_proba`. The map is of the newest
        volume; those before it stay as they are.
    batch_size : int
        Volumes that go through the network at once.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32
        0 in columns that the network does not read.

    Raises
    ------
    InputError
        captum is missing, no network, an unknown class, or a baseline of another shape.

    References
    ----------
    Sundararajan, Taly & Yan 2017, ICML, "Axiomatic attribution for deep networks", equation 1.
    """
    attr = _captum()
    opened = _Opened(fitted, X, target=target, moments=moments)
    if n_steps < 1:
        raise _bad("n_steps", f"{n_steps}", "1 step or more", "Take 32, or more for deep networks.")
    base = _checked_baseline(baseline, len(opened.codes), opened.n_read)
    found = np.zeros((len(opened.codes), opened.n_read), dtype=np.float32)
    for member, rows, z, past in opened.batches(batch_size):
        found[rows] += (
            attr.IntegratedGradients(member)
            .attribute(
                z,
                _start(base, rows, z),
                target=opened.codes_of(rows, z),
                additional_forward_args=past,
                n_steps=n_steps,
                internal_batch_size=max(batch_size, len(z)),
            )
            .detach()
            .float()
            .cpu()
            .numpy()
        )
    return opened.to_columns(found / opened.n_members)


def logit_change(
    fitted: Any,
    X: "np.ndarray | Rows",
    *,
    target: Target,
    baseline: float | np.ndarray = 0.0,
    moments: np.ndarray | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Return logit(z) - logit(b), the members' mean: what integrated gradients should add up to.

    How far ``integrated_gradients(...).sum(axis=1)`` is off says whether `n_steps` are enough. In
    networks with ReLU the error falls as 1 / n_steps.

    Parameters
    ----------
    fitted, X, target, baseline, moments, batch_size
        See `integrated_gradients`.

    Returns
    -------
    ndarray of shape (n_samples,)
    """
    opened = _Opened(fitted, X, target=target, moments=moments)
    base = _checked_baseline(baseline, len(opened.codes), opened.n_read)
    found = np.zeros(len(opened.codes))
    for member, rows, z, past in opened.batches(batch_size):
        start = _start(base, rows, z)
        with torch.no_grad():
            change = member(z, past) - member(start, past)
        own = change.gather(1, opened.codes_of(rows, z)[:, None])[:, 0]
        found[rows] += own.double().cpu().numpy()
    return found / opened.n_members


def grad_cam(
    fitted: Any,
    X: "np.ndarray | Rows",
    *,
    target: Target,
    layer: str | None = None,
    relu: bool = True,
    moments: np.ndarray | None = None,
    batch_size: int = 16,
) -> np.ndarray:
    """Return Grad-CAM maps of the logit of a class, averaged over the members.

    ::

        L = ReLU(sum over channels k of (mean over places of dlogit/dA_k) A_k)

    with A_k the maps of a layer. L is brought to the voxels by linear interpolation between the
    centres of what each of its places sees, which are measured (through strides of 2 they lie up
    to half a place beside those that a plain up-sampling assumes: 7 voxels in S1's network). Where
    every place sees the volume's borders, the plain up-sampling is taken.

    Parameters
    ----------
    fitted : Pipeline or VolumeNetClassifier
    X, target, moments, batch_size
        See `integrated_gradients`.
    layer : str, optional
        Name of a module inside the network (``"ds3"``); None: the last that gives maps of more
        than one place.
    relu : bool
        False: keep what speaks against the class. Averages over samples keep their sign so.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32

    Raises
    ------
    InputError
        captum is missing, a network without maps of places, an unknown layer or class.

    References
    ----------
    Selvaraju et al. 2017, ICCV, "Grad-CAM", equations 1 and 2.
    """
    attr = _captum()
    opened = _Opened(fitted, X, target=target, moments=moments)
    if not isinstance(opened.classifier, VolumeNetClassifier):
        raise _bad(
            "Grad-CAM",
            f"a network on vectors ({opened.classifier.network})",
            "a 3-D network: its layers have places",
            "Use integrated_gradients for networks on vectors.",
        )
    found = np.zeros((len(opened.codes), opened.n_read), dtype=np.float32)
    ways: list[np.ndarray] = []  # the same for all members: of one architecture
    for member, rows, z, past in opened.batches(batch_size):
        unmask = member.module
        if layer is None:
            layer = last_maps(unmask, member.window)
        place = module_named(unmask.network, layer)
        ways = ways or spreads(unmask, place, member.window)
        maps = attr.LayerGradCam(member, place).attribute(
            z,
            target=opened.codes_of(rows, z),
            additional_forward_args=past,
            relu_attributions=relu,
        )
        if maps.ndim != 5:
            raise no_places(layer)
        maps = maps.detach().double().cpu().numpy()
        maps = maps.reshape(len(z), -1, *maps.shape[2:])[:, -1]  # of a window the newest volume
        volumes = np.einsum("nabc,xa,yb,zc->nxyz", maps, *ways, optimize=True)
        inside = unmask.get_buffer("inside").cpu().numpy()
        found[rows] += volumes.reshape(len(z), -1)[:, inside].astype(np.float32)
    return opened.to_columns(found / opened.n_members)


class _Member(nn.Module):
    """A member behind the values that it reads; of a windowed one only the newest volume varies."""

    def __init__(self, module: Any, window: int | None) -> None:
        super().__init__()
        self.module, self.window = module, window

    def forward(self, z: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
        """Values ``(batch, n_read)``, those before ``(batch, k - 1, n_read)`` -> logits."""
        if self.window is None:
            return self.module(z)
        newest = z[:, None]
        return self.module(newest if past is None else torch.cat([past, newest], 1))


class _Opened:
    """A fitted decoder and samples, brought to what the network reads."""

    def __init__(
        self, fitted: Any, X: "np.ndarray | Rows", *, target: Target, moments: np.ndarray | None
    ) -> None:
        self.front, self.classifier = _steps_of(fitted)
        self.rows = as_rows(X)
        for step in self.front:
            self.rows = as_rows(step.transform(self.rows.read()))
        self.n_read = int(self.classifier.n_features_in_)
        check_width(self.rows.X, self.n_read)
        self.codes = _codes(target, self.classifier.classes_, len(self.rows))
        self.n_members = len(self.classifier.modules_)
        self.window = getattr(self.classifier, "window", None)
        self.windows = None
        if self.window is not None:
            scan, volume = np.asarray(alone(len(self.rows)) if moments is None else moments).T
            self.windows = find_windows(scan, volume, self.window)

    def codes_of(self, rows: slice, z: torch.Tensor) -> torch.Tensor:
        """Number of the class of each sample."""
        return torch.as_tensor(self.codes[rows], device=z.device)

    def batches(self, size: int) -> Iterator[tuple[_Member, slice, torch.Tensor, Any]]:
        """Give each member each batch: network, rows, values and values of the volumes before."""
        is_volume = isinstance(self.classifier, VolumeNetClassifier)
        device = resolve_device(self.classifier.device) if is_volume else "cpu"
        for module in self.classifier.modules_:
            module.to(device).eval()
            kind = next(module.parameters()).dtype
            plain = _without_scale(module).to(device).eval() if is_volume else module
            member = _Member(plain, self.window)
            for start in range(0, len(self.rows), size):
                rows = slice(start, min(start + size, len(self.rows)))
                values = self._read(rows)
                with torch.no_grad():
                    given = torch.from_numpy(values).to(device, kind)
                    z = _standardised(module, given) if is_volume else given
                past = None
                if self.window is not None:
                    z, past = z[:, -1].contiguous(), z[:, :-1].contiguous()
                yield member, rows, z, past if past is not None and past.shape[1] else None

    def to_columns(self, found: np.ndarray) -> np.ndarray:
        """Bring values of what the network reads to the columns of X."""
        for step in reversed(self.front):
            if hasattr(step, "indices_"):
                spread = np.zeros((len(found), step.n_features_in_), dtype=found.dtype)
                spread[:, step.indices_] = found
                found = spread
        return found

    def _read(self, rows: slice) -> np.ndarray:
        return (
            self.rows.read(rows)
            if self.windows is None
            else read_windows(self.rows, self.windows[rows])
        )


def _captum() -> Any:
    try:
        from captum import attr
    except ImportError as error:
        raise InputError(
            "installation",
            found="captum is not installed",
            expected="captum 0.8 or later",
            remedy="pip install 'emodecode[explain]'",
        ) from error
    return attr


def _steps_of(fitted: Any) -> tuple[list[Any], Any]:
    """Steps of single columns, and the network behind them."""
    steps = [step for _, step in fitted.steps] if isinstance(fitted, Pipeline) else [fitted]
    *front, last = [step for step in steps if step is not None and not isinstance(step, str)]
    if not isinstance(last, (NetClassifier, VolumeNetClassifier)) or not hasattr(last, "modules_"):
        raise _bad(
            "gradient map",
            f"no fitted network ({type(last).__name__})",
            "a fitted NetClassifier or VolumeNetClassifier, alone or at the end of a pipeline",
            "Use weights and patterns for linear decoders, occlusion for all others.",
        )
    for step in front:
        if not isinstance(step, OneToOneFeatureMixin) and not hasattr(step, "indices_"):
            raise _bad(
                "gradient map",
                f"a step that mixes columns ({type(step).__name__})",
                "steps that select or scale columns",
                "Explain the network on the features that this step gives.",
            )
    return front, last


def _without_scale(module: Unmask) -> Unmask:
    """The same network behind a mask, for values that are standardised already."""
    mask = np.zeros(module.shape, dtype=bool)
    mask.flat[module.get_buffer("inside").cpu().numpy()] = True
    return Unmask(module.network, mask)


def _standardised(module: Unmask, x: torch.Tensor) -> torch.Tensor:
    """Standardise as `Unmask` does; volumes that do not exist stay NaN."""
    values = module.to_volumes(x).flatten(2)[..., module.get_buffer("inside")]
    return values[:, 0] if x.ndim == 2 else torch.where(torch.isnan(x), x, values)


def _codes(target: Target, classes: np.ndarray, n: int) -> np.ndarray:
    names = np.asarray(target).astype(str)
    wanted = np.repeat(names, n) if names.ndim == 0 else names
    known = {str(name): code for code, name in enumerate(classes)}
    unknown = sorted(set(wanted.ravel().tolist()) - set(known))
    if unknown or wanted.shape != (n,):
        raise _bad(
            "target",
            f"unknown class {unknown[0]!r}" if unknown else f"{wanted.shape} for {n} samples",
            f"one of {', '.join(known)}, or one for each sample",
            "Name a class that the decoder was trained on.",
        )
    return np.array([known[name] for name in wanted], dtype=np.int64)


def _checked_baseline(baseline: float | np.ndarray, n: int, n_read: int) -> np.ndarray:
    base = np.asarray(baseline, dtype=np.float64)
    if base.shape not in ((), (n_read,), (n, n_read)) or not np.isfinite(base).all():
        raise _bad(
            "baseline",
            f"shape {base.shape}, {int((~np.isfinite(base)).sum())} values not finite",
            f"a number, or finite values of shape ({n_read},) or ({n}, {n_read})",
            "Give it in the values that the network reads, after selection and scaling.",
        )
    return base


def _start(base: np.ndarray, rows: slice, z: torch.Tensor) -> torch.Tensor:
    own = torch.as_tensor(base[rows] if base.ndim == 2 else base).to(z)
    return own.expand_as(z).contiguous()


def _bad(where: str, found: str, expected: str, remedy: str) -> InputError:
    return InputError(where, found=found, expected=expected, remedy=remedy)
