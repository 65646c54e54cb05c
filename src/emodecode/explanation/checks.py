"""Sanity checks of a study's maps: what is done fold by fold, and what needs the whole map."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from nibabel.spatialimages import SpatialImage
from tqdm import tqdm

from emodecode.candidates import mask_of
from emodecode.explain.sanity import Check, SanityReport, check_edge, check_labels, check_outside
from emodecode.explain.units import Units, box_units
from emodecode.explanation.folds import Alternatives, mean_drop, occlude_rows, tried
from emodecode.explanation.tasks import Task
from emodecode.sections import Explain
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.proof import Work
    from emodecode.samples import Samples


def other_settings(rules: Explain, units: Units, inside: np.ndarray | None) -> Alternatives:
    """Return what the map is compared with: another fill, and boxes of another size."""
    if not rules.other_settings:
        return {}
    fill = "voxel_mean" if rules.fill != "voxel_mean" else "volume_mean"
    found: Alternatives = {f"fill {fill}": ({"fill": fill}, units)}
    if rules.unit == "boxes" and inside is not None:
        size = rules.box_vox + 1
        boxes = box_units(inside, box_vox=size, stride_vox=rules.stride_vox)
        found[f"boxes of {size} voxels"] = ({}, boxes)
    return found


def check_model(
    samples: "Samples",
    units: Units,
    task: Task,
    part: dict[str, np.ndarray],
    maps: np.ndarray,
    *,
    space: str | None,
    work: "Work",
) -> SanityReport:
    """Join the checks of a decoder.

    Parameters
    ----------
    samples : Samples
    units : Units
    task : Task
        The first fold.
    part : dict
        Of the first fold (`emodecode.explanation.folds.explain_fold`).
    maps : ndarray of shape (n_subjects, n_classes, n_units)
    space : str or None
        Template of the images.
    work : Work
    """
    checks = []
    inside = mask_of(samples)
    if inside is not None:
        mean = units.spread(maps.mean(axis=(0, 1)))
        checks.append(tried("edge", lambda: check_edge(mean, mask=inside)))
        if space is not None and samples.mask is not None:
            brain = _brain(samples.mask)
            ask = partial(check_outside, mean, mask=inside, brain=brain)
            checks.append(tried("outside the brain", ask))
    if task.study.explain.form != "honest":
        return SanityReport(tuple(checks))
    checks += [Check(**each) for each in json.loads(str(part["checks"]))]
    if task.study.explain.label_draws:
        checks.append(_check_labels(samples, units, task, part, work))
    return SanityReport(tuple(checks))


def _brain(mask: SpatialImage) -> np.ndarray:
    """The template's brain on the grid of the samples."""
    from nilearn.datasets import load_mni152_brain_mask
    from nilearn.image import resample_to_img

    brain = resample_to_img(
        load_mni152_brain_mask(), mask, interpolation="nearest", copy_header=True,
        force_resample=True,
    )  # fmt: skip
    return np.asanyarray(brain.dataobj) != 0


def _check_labels(
    samples: "Samples", units: Units, task: Task, part: dict[str, np.ndarray], work: "Work"
) -> Check:
    """Compare the first fold's map with those of decoders trained on exchanged labels."""
    _, codes = exchanged_codes(task.study, samples, task.study.explain.label_draws)
    drawn = [np.array(samples.classes, dtype=samples.y.dtype)[each] for each in codes]
    given = (samples.X, samples.table, units, task)
    jobs = [
        joblib.delayed(_map_under)(*given, labels, number, work.resume)
        for number, labels in enumerate(drawn)
    ]
    found = run_all(jobs, samples.X, name="exchanged labels", unit="fit", work=work)
    maps = {labels.tobytes(): each for labels, each in zip(drawn, found, strict=True)}
    maps[samples.y.tobytes()] = part["map"]

    def fit(labels: np.ndarray) -> np.ndarray:
        return maps[labels.tobytes()]

    ask = partial(check_labels, np.asarray, fit, samples.y, drawn, statistic=np.max)
    return tried("random labels", ask)


def run_all(jobs: list, X: np.ndarray, *, name: str, unit: str, work: "Work") -> list:
    """Run joblib's jobs in the processes that `work` allows, with a bar."""
    from emodecode.evaluate.workers import backend

    with backend(None, work.n_jobs, X):
        found = joblib.Parallel(max_nbytes="1M", return_as="generator")(jobs)
        bar = tqdm(found, total=len(jobs), desc=name, unit=unit, disable=not work.progress)
        return list(bar)


def _map_under(
    X: np.ndarray,
    table: Any,
    units: Units,
    task: Task,
    labels: np.ndarray,
    number: int,
    folder: Path | None,
) -> np.ndarray:
    """Map of the first fold's samples by a decoder that was trained on exchanged labels."""
    from emodecode.evaluate.workers import load_part, store_part

    key = task.key(units, "labels", task.study.explain.label_draws, number)
    saved = load_part(key, folder)
    if saved is not None and "map" in saved:
        return saved["map"]
    rows = task.rows(table)
    fitted = task.fit(X, table, labels)
    found = mean_drop(
        occlude_rows(fitted, X, table, rows, units, task), table["label"].iloc[rows].tolist()
    )
    if folder is not None:
        store_part(key, {"map": found}, folder)
    return found


def exchanged_codes(study: Study, samples: "Samples", n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels exchanged within runs, as in the test of the scores.

    Returns
    -------
    own : ndarray of int, shape (n_samples,)
        Number of each sample's class.
    drawn : ndarray of int, shape (n, n_samples)
    """
    from emodecode.evaluate.exchange import make_exchange, permuted_labels

    unit = "shift" if study.evaluate.exchange == "shift" else "block"
    exchange = make_exchange(samples.table, classes=samples.classes, unit=unit)
    drawn = permuted_labels(exchange, n_permutations=n, seed=study.seed)
    return exchange.label[exchange.slot], drawn[:, exchange.slot]
