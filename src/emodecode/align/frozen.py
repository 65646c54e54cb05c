"""Space: a frozen common space, of all voxels or a piece: how it is made and how to get there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from emodecode.align.generalised import mean_template
from emodecode.align.hyperalignment import Options, hyperalign, hyperalign_levels, map_to_common
from emodecode.align.linearmap import LinearMap
from emodecode.align.lowrank import safe_svd, signed
from emodecode.align.maps import GRIDS, alikeness, check_choices, fit_map
from emodecode.align.procrustes import Factor, factor, template
from emodecode.align.srm import map_to_shared, shared_response
from emodecode.errors import InputError

METHODS = ("hyperalignment", "template", "srm")
SRM_COMPONENTS = 50


@dataclass(frozen=True)
class Choices:
    """Parameters of `emodecode.align.space.CommonSpace`, where they are described; checked."""

    method: str = "hyperalignment"
    map: str = "orthogonal"
    shrinkage: float | str = "auto"
    n_components: int | None = None
    level2_niter: int = 1
    scaling: bool = True
    reflection: bool = True
    alpha: float = 1.0
    zscore_common: bool = True

    def __post_init__(self) -> None:
        check_choices(self.map, self.shrinkage)
        if self.method not in METHODS:
            raise bad_parameter("method", self.method, f"one of {', '.join(METHODS)}")
        whole = isinstance(self.n_components, (int, np.integer)) and self.n_components >= 1
        if self.n_components is not None and not whole:
            raise bad_parameter("n_components", self.n_components, "a whole number from 1")

    @property
    def levels(self) -> Options:
        """Options of hyperalignment."""
        return Options(
            level2_niter=self.level2_niter,
            zscore_common=self.zscore_common,
            alpha=self.alpha,
            output_dim=self.n_components,
            scaling=self.scaling,
            reflection=self.reflection,
        )


@dataclass(frozen=True, eq=False)
class Space:
    """A frozen common space.

    Parameters
    ----------
    template : ndarray of shape (n_keys, n_common)
    axes : ndarray of shape (n_common, n_components) or None
        Appended to the maps.
    shrinkage : float or None
        Chosen on the subjects that made the space, for all of them and for new ones.
    """

    template: np.ndarray = field(repr=False)
    axes: np.ndarray | None = field(default=None, repr=False)
    shrinkage: float | None = None

    def take(self, keys: np.ndarray) -> "Space":
        """Return the space with some of the keys."""
        return replace(self, template=self.template[keys])


class Mapped(NamedTuple):
    """A subject's map and the shrinkage that it was fitted with (None: orthogonal)."""

    mapper: LinearMap
    shrinkage: float | None = None


@contextmanager
def naming_subjects(names: Sequence[str], datasets: Sequence[np.ndarray]) -> Iterator[None]:
    """Let an error about one subject's data say whose they are."""
    try:
        yield
    except InputError:
        for name, part in zip(names, datasets, strict=True):
            try:
                factor(part)
            except InputError as error:
                raise InputError(
                    f"alignment: sub-{name}",
                    found=error.found,
                    expected=error.expected,
                    remedy=error.remedy,
                ) from error
        raise


def fit_space(datasets: Sequence[np.ndarray], choices: Choices) -> tuple[Space, list[Mapped]]:
    """Make the common space of several subjects and map each of them to it.

    Parameters
    ----------
    datasets : sequence of ndarray of shape (n_keys, n_voxels)
        One a subject.
    choices : Choices
    """
    space, mappers = _find_space(datasets, choices)
    if choices.map == "orthogonal" and mappers is not None:
        return space, [Mapped(each) for each in mappers]
    kind = np.float32 if datasets[0].dtype == np.float32 else np.float64
    target = template(space.template, dtype=kind)
    if choices.map != "orthogonal" and choices.shrinkage == "auto":
        space = replace(space, shrinkage=_common_shrinkage(datasets, target, choices))
    return space, [fit_to_space(part, space, choices, target=target) for part in datasets]


def fit_to_space(
    data: np.ndarray, space: Space, choices: Choices, *, target: Factor | None = None
) -> Mapped:
    """Map a subject, who may be new, to a frozen space.

    Parameters
    ----------
    data : ndarray of shape (n_keys, n_voxels)
        The rows of the space's template.
    space : Space
    choices : Choices
    target : Factor, optional
        `emodecode.align.procrustes.template` of the space's template, for several subjects.
    """
    if choices.map == "orthogonal" and choices.method == "srm":
        return Mapped(map_to_shared(data, space.template))
    scaling, reflection, axes = choices.scaling, choices.reflection, space.axes
    alpha = choices.alpha if choices.map == "orthogonal" else 1.0
    own = factor(data, alpha=alpha if choices.method == "hyperalignment" else 1.0)
    target = target or template(space.template, dtype=own.dtype)
    if choices.map == "orthogonal":
        found = map_to_common(
            own,
            target,
            alpha=1.0 if own.gain is None else alpha,
            output_axes=axes,
            scaling=scaling,
            reflection=reflection,
        )
        return Mapped(found)
    used = choices.shrinkage if space.shrinkage is None else space.shrinkage
    found = fit_map(
        own, target, kind=choices.map, shrinkage=used, scaling=scaling, reflection=reflection
    )
    return Mapped(found if axes is None else found.through(axes), float(used))


def _common_shrinkage(datasets: Sequence[np.ndarray], target: Factor, choices: Choices) -> float:
    """One shrinkage for all subjects: maps of unequal shrinkage have unequal scales."""
    total = np.zeros(len(GRIDS[choices.map]))
    for part in datasets:
        total += alikeness(factor(part), target, kind=choices.map, reflection=choices.reflection)
    return float(GRIDS[choices.map][int(total.argmax())])


def _find_space(
    datasets: Sequence[np.ndarray], choices: Choices
) -> tuple[Space, list[LinearMap] | None]:
    """Return the space, and its own orthogonal maps where they come with it."""
    n_components = choices.n_components
    if choices.method == "srm":
        most = min(SRM_COMPONENTS, len(datasets[0]) - 1, datasets[0].shape[1])
        shared, mappers = shared_response(datasets, n_components=n_components or most)
        return Space(shared), mappers
    if choices.method == "template":
        common = mean_template(
            datasets,
            n_passes=choices.level2_niter,
            zscore=choices.zscore_common,
            scaling=choices.scaling,
            reflection=choices.reflection,
        )
        return Space(common, _axes(common, n_components)), None
    if n_components is None:
        common, mappers = hyperalign(datasets, **vars(choices.levels))
        return Space(common), mappers
    levels = hyperalign_levels(datasets, choices.levels)
    return Space(levels.common, levels.output_axes), levels.mappers


def _axes(common: np.ndarray, n_components: int | None) -> np.ndarray | None:
    """First principal axes of a template; the largest weight of each is positive."""
    if n_components is None:
        return None
    most = min(len(common) - 1, common.shape[1])
    if n_components > most:
        raise bad_parameter("n_components", n_components, f"at most {most} for these data")
    return signed(safe_svd(common - common.mean(axis=0))[2][:n_components].T)


def bad_parameter(name: str, value: object, expected: str) -> InputError:
    """Return the error for a parameter out of range."""
    return InputError(
        f"alignment: {name}",
        found=f"{name} = {str(value)[:60]}",
        expected=expected,
        remedy=f"Correct align.{name} in the study.",
    )
