"""Where the places of a 3-D network's layers lie in the volume, for Grad-CAM."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from emodecode.errors import InputError
from emodecode.models.unmask import Unmask


def module_named(network: Any, name: str) -> nn.Module:
    """Return a layer by its name inside the network."""
    known = dict(network.named_modules())
    if not name or name not in known:
        some = ", ".join(list(known)[1:8])
        raise _bad("Grad-CAM", f"no layer {name!r}", f"one of {some}, ...", "Name a layer.")
    return known[name]


def last_maps(unmask: Unmask, window: int | None) -> str:
    """Name the last module, run once, that gives maps of more than one place."""
    seen: list[tuple[str, tuple[int, ...], bool]] = []

    def keep(name: str, module: nn.Module) -> Callable:
        def hook(_module: Any, _given: Any, value: Any) -> None:
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
            seen.append((name, shape, any(isinstance(p, nn.Conv3d) for p in module.modules())))

        return hook

    network: Any = unmask.network
    hooks = [
        module.register_forward_hook(keep(name, module))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            network(_example(unmask, window, n=1))
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, _, _ in seen]
    after = next((at for at, (_, _, convolves) in enumerate(seen) if convolves), len(seen))
    fit = [
        name
        for name, shape, _ in seen[after:]
        if len(shape) == 5 and max(shape[2:]) > 1 and names.count(name) == 1
    ]
    if not fit:
        raise no_places(type(network).__name__)
    return fit[-1]


def _example(unmask: Unmask, window: int | None, *, n: int) -> torch.Tensor:
    weight = next(unmask.parameters())
    values = np.random.default_rng(0).standard_normal((n, window or 1, *unmask.shape))
    return torch.from_numpy(values).to(weight)


def spreads(unmask: Unmask, place: nn.Module, window: int | None) -> list[np.ndarray]:
    """For each axis the matrix ``(n_voxels, n_places)`` that interpolates places to voxels."""
    volumes = _example(unmask, window, n=2).requires_grad_()
    kept: list[torch.Tensor] = []
    # a clone, for what comes after may work in place
    hook = place.register_forward_hook(lambda _m, _g, value: kept.append(value.clone()))
    try:
        network: Any = unmask.network
        network(volumes)
    finally:
        hook.remove()
    maps = kept[-1]
    if maps.ndim != 5:
        raise no_places(type(place).__name__)
    size = maps.shape[2:]
    corners = [
        _seen_by(maps, volumes, [min(step, n - 1) for n in size])
        if first
        else _seen_by(maps, volumes, [max(n - 1 - step, 0) for n in size])
        for first in (True, False)
        for step in (0, 1)
    ]
    return [
        _interpolation(
            length,
            centres(length, n, first=corners[0][axis], second=corners[1][axis],
                    last=corners[2][axis], before=corners[3][axis]),
        )
        for axis, (length, n) in enumerate(zip(unmask.shape, size, strict=True))
    ]  # fmt: skip


def _seen_by(maps: torch.Tensor, volumes: torch.Tensor, at: list[int]) -> list[tuple[int, int]]:
    """First and last voxel along each axis that a place depends on."""
    i, j, k = at
    total = maps[..., i, j, k].sum()
    (slope,) = torch.autograd.grad(total, volumes, retain_graph=True, allow_unused=True)
    seen = (slope != 0).flatten(0, 1).any(0)
    found = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        where = torch.nonzero(seen.sum(others)).flatten().tolist() or [0, seen.shape[axis] - 1]
        found.append((where[0], where[-1]))
    return found


def centres(
    length: int,
    n: int,
    *,
    first: tuple[int, int],
    second: tuple[int, int],
    last: tuple[int, int],
    before: tuple[int, int],
) -> np.ndarray:
    """Return where the n places of a layer lie along an axis of so many voxels.

    Parameters
    ----------
    length, n : int
    first, second, last, before : (int, int)
        First and last voxel that the first two places see, the last place and the one before it.

    Returns
    -------
    ndarray of shape (n,)
        Voxel coordinates of the centres of what they see; where that cannot be measured, because
        the borders cut it, the centres of n equal parts.
    """
    even = (np.arange(n) + 0.5) * length / n - 0.5
    if n < 2 or first[1] == length - 1 or last[0] == 0:
        return even
    if second[1] < length - 1:
        step = second[1] - first[1]
    elif before[0] > 0:
        step = last[0] - before[0]
    else:
        return even
    return (first[1] + last[0] - step * (n - 1)) / 2 + step * np.arange(n)


def _interpolation(length: int, places: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.interp(np.arange(length), places, unit) for unit in np.eye(len(places))], axis=1
    )


def no_places(name: str) -> InputError:
    """Return the refusal of a layer without maps."""
    return _bad(
        "Grad-CAM",
        f"no maps of places in {name}",
        "a convolution whose output has more than one place",
        "Name another layer, or use integrated_gradients.",
    )


def _bad(where: str, found: str, expected: str, remedy: str) -> InputError:
    return InputError(where, found=found, expected=expected, remedy=remedy)
