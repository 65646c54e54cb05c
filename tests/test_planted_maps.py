"""Maps of planted truth: what each method finds, what nothing planted looks like, decoys.

Each method's map is compared with the regions that carry the code by average precision: the share
of planted voxels among the highest ones, averaged over all cuts. A map of nothing has about the
share of planted voxels in the mask.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from emodecode.evaluate.foldfit import Tuning
from emodecode.evaluate.score import Candidate, fit_on_fold
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.explain.gradients import integrated_gradients
from emodecode.explain.group import infer_group
from emodecode.explain.occlusion import occlude_samples
from emodecode.explain.patterns import linear_maps
from emodecode.explain.units import box_units
from emodecode.features.extract import extract
from emodecode.label.blocks import label_events
from emodecode.label.random import label_random
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import Samples
from emodecode.simulate.runs import simulate_runs
from emodecode.simulate.signals import MOTION_COLUMNS

CLEAN = {"detrend": True, "high_pass_hz": 1 / 128, "low_pass_hz": None, "standardize": "run"}
BLOCKS = {"gap_s": 10.0, "n_volumes": 240, "n_subjects": 8}

pytestmark = pytest.mark.slow


def _samples(*, labels=None, **choices):
    simulated = simulate_runs(voxel_mm=10.0, shared=1.0, **choices)
    runs = [
        replace(run, confounds=run.confounds[list(MOTION_COLUMNS)])
        for run in simulated.runs
        if run.confounds is not None
    ]
    if labels is None:
        labelled = label_events(runs, lag_s=6.0, transition_s=4.0)
    else:
        labelled = label_random(runs, classes=labels, seed=1, lag_s=6.0)
    samples = extract(runs, labelled.table, mask=simulated.mask, clean=CLEAN, progress=False)
    inside = np.asanyarray(samples.mask.dataobj) != 0
    number = np.asanyarray(simulated.region_image.dataobj)[inside]
    known = {each["name"]: each["number"] for each in simulated.truth["regions"]}
    carries = {
        role: np.isin(number, [known[name] for name in names])
        for role, names in simulated.truth["carries"].items()
    }
    return samples, carries


def _fit(samples, kind, split, **params):
    mask = np.asanyarray(samples.mask.dataobj) != 0
    candidate = Candidate(kind, make_pipeline_for(kind, params=params, mask=mask))
    given = (samples.X, samples.y, samples.table, split)
    return fit_on_fold(candidate, *given, tuning=Tuning(), seed=0)[0]


def _occlusion(samples, fitted, rows):
    """Mean drop of each sample's own class by each voxel, of held-out samples."""
    units = box_units(np.asanyarray(samples.mask.dataobj) != 0, box_vox=1, stride_vox=1)
    own = samples.table.iloc[rows]
    found = occlude_samples(
        fitted,
        samples.X[rows],
        units=units,
        labels=own["label"].tolist(),
        subjects=own["subject"].tolist(),
    )
    return found.drop_of(own["label"].tolist()).mean(axis=0)


def _maps(samples, splits, *, network=True):
    """Each method's map of each fold's held-out subject, (n_folds, n_voxels)."""
    found = {"occlusion, lda": [], "Haufe pattern, lda": []}
    for split in splits:
        lda = _fit(samples, "lda", split)
        rows = split.test[::4]
        found["occlusion, lda"].append(_occlusion(samples, lda, rows))
        train = Samples(
            X=samples.X[split.train],
            table=samples.table.iloc[split.train].reset_index(drop=True),
            mask=samples.mask,
        )
        patterns = [np.abs(each.pattern) for each in linear_maps(train, lda)]
        found["Haufe pattern, lda"].append(np.mean(patterns, axis=0))
        if not network:
            continue
        net = _fit(samples, "small3d", split, n_members=1)
        found.setdefault("occlusion, small3d", []).append(_occlusion(samples, net, rows))
        gradients = integrated_gradients(net, samples.X[rows], target=samples.y[rows])
        found.setdefault("integrated gradients, small3d", []).append(gradients.mean(axis=0))
    return {name: np.array(each) for name, each in found.items()}


def _table(maps, planted):
    precision = {
        name: average_precision_score(planted, each.mean(axis=0)) for name, each in maps.items()
    }
    return pd.Series(precision) / planted.mean()


def test_every_method_finds_the_planted_regions_and_none_finds_nothing():
    samples, carries = _samples(code="linear", effect=3.0, seed=0, **BLOCKS)
    splits = leave_one_subject_out(samples.table)
    maps = _maps(samples, splits)
    found = _table(maps, carries["linear"])
    nothing, _ = _samples(code="null", seed=0, **BLOCKS)
    null = _maps(nothing, leave_one_subject_out(nothing.table))
    by_chance = _table(null, carries["linear"])
    print(pd.DataFrame({"planted": found, "null": by_chance}).round(1))
    assert (found > 5).all(), found
    assert (by_chance < 3).all(), by_chance
    group = infer_group(maps["occlusion, lda"])
    hits = (group.p <= 0.05) & (group.mean > 0)
    assert hits.sum() >= 3
    assert carries["linear"][hits].mean() > 0.7, "what is significant is planted"
    assert (infer_group(null["occlusion, lda"]).p > 0.05).all()


def test_products_of_regions_are_found_by_explaining_the_network_that_reads_them():
    samples, carries = _samples(code="interaction", effect=3.0, seed=0, **BLOCKS)
    found = _table(_maps(samples, leave_one_subject_out(samples.table)), carries["interaction"])
    print(found.round(1))
    assert found["occlusion, small3d"] > 3
    assert found["occlusion, lda"] < 3, "a linear decoder is at chance and uses nothing"


def test_regions_that_follow_the_film_are_not_blamed_by_an_honest_split():
    samples, carries = _samples(
        labels=("FEAR", "HAPPINESS", "SADNESS"),
        design="movie",
        decoy=0.9,
        n_subjects=8,
        n_runs=3,
        n_volumes=150,
        seed=0,
    )
    found = {}
    for name, splits in (
        ("shared scenes", leave_one_subject_out(samples.table)),
        ("other scenes", subject_by_stimulus(samples.table)[::4]),
    ):
        maps = _maps(samples, splits, network=False)["occlusion, lda"]
        found[name] = maps[:, carries["decoy"]].mean() / maps.std()
    print(found)
    assert found["shared scenes"] > 0.3
    assert abs(found["other scenes"]) < found["shared scenes"] / 3
