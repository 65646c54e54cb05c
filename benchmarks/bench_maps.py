"""Significant units where there is nothing: maps of decoders of a film without emotion, or blocks.

    python benchmarks/bench_maps.py [--sets 60] [--design movie]

Simulated subjects see the same film, which evokes its scenes and no emotion (``--code null``), or
blocks in orders of their own. LDA is fitted with held-out subjects and parts of the film, and boxes
of held-out samples are occluded as `emodecode explain` does. Counted are data sets in which any
unit drops significantly (family-wise p <= .05 over all units and classes): over subjects by sign
flips, against exchanged labels, and by both, which is what the page calls significant.
"""

import argparse
import warnings
from dataclasses import replace

import numpy as np
from scipy.stats import binom
from tqdm import tqdm

from emodecode.evaluate.chance import shares_training
from emodecode.evaluate.exchange import make_exchange, permuted_labels
from emodecode.evaluate.foldfit import Tuning
from emodecode.evaluate.score import Candidate, fit_on_fold
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.explain.exchanged import infer_labels
from emodecode.explain.group import infer_group
from emodecode.explain.occlusion import occlude_samples
from emodecode.explain.units import box_units
from emodecode.explanation.fits import subject_maps
from emodecode.features.extract import extract
from emodecode.label.blocks import label_events
from emodecode.label.random import label_random
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import Samples
from emodecode.simulate.runs import simulate_runs
from emodecode.simulate.signals import MOTION_COLUMNS

CLEAN = {"detrend": True, "high_pass_hz": 1 / 128, "low_pass_hz": None, "standardize": "run"}
CLASSES = ("anger", "fear", "joy", "love", "sadness")


def simulate(seed: int, design: str, n_classes: int) -> Samples:
    """Sixteen subjects, two runs, 10 mm voxels, nothing that speaks of the labels."""
    made = simulate_runs(
        design=design, code="null", seed=seed, n_subjects=16, n_runs=2, n_volumes=200,
        voxel_mm=10.0, shared=1.0,
    )  # fmt: skip
    runs = [
        replace(run, confounds=run.confounds[list(MOTION_COLUMNS)])
        for run in made.runs
        if run.confounds is not None
    ]
    if design == "movie":
        labelled = label_random(
            runs, classes=CLASSES[:n_classes], episode_s=20.0, seed=seed, lag_s=6.0
        )
    else:
        labelled = label_events(runs, lag_s=6.0, transition_s=4.0)
    return extract(runs, labelled.table, mask=made.mask, clean=CLEAN, progress=False)


def explain(samples: Samples, design: str, fill: str, seed: int) -> tuple[bool, ...]:
    """Whether any unit drops significantly: by each test, and by both."""
    table = samples.table
    assert samples.mask is not None
    mask = np.asanyarray(samples.mask.dataobj) != 0
    movie = design == "movie"
    splits = subject_by_stimulus(table, groups="run") if movie else leave_one_subject_out(table)
    units, rows, drops = box_units(mask), [], []
    for split in splits:
        candidate = Candidate("lda", make_pipeline_for("lda", mask=mask))
        given = (samples.X, samples.y, table, split)
        fitted = fit_on_fold(candidate, *given, tuning=Tuning(), seed=0)[0]
        own = table.iloc[split.test]
        found = occlude_samples(
            fitted, samples.X[split.test], units=units, labels=own["label"].tolist(),
            subjects=own["subject"].tolist(), fill=fill, n_draws=2, seed=seed,
        )  # fmt: skip
        rows.append(split.test)
        drops.append(found.drops)
    at, changed = np.concatenate(rows), np.concatenate(drops)
    _, maps = subject_maps(table.iloc[at], samples.classes, changed)
    group = infer_group(maps.reshape(len(maps), -1), seed=seed)
    exchange = make_exchange(table, classes=samples.classes)
    slots = exchange.slot[at]
    drawn = permuted_labels(exchange, n_permutations=500, seed=seed)[:, slots]
    over = (group.p <= 0.05) & (group.mean > 0)
    hits = [bool(over.any())]
    for widened in (False, shares_training(splits)):
        labels = infer_labels(
            *(changed, exchange.label[slots], drawn, samples.subjects[at]),
            shared_training=widened,
        )
        against = labels.p.ravel() <= 0.05
        hits += [bool(against.any()), bool((over & against).any())]
    return tuple(hits)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=60)
    parser.add_argument("--design", choices=("movie", "blocks"), action="append")
    parser.add_argument("--classes", type=int, default=3, help="of films; blocks have three")
    parser.add_argument("--fill", default="subject")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| design | over subjects | against labels | both | labels, widened | both, widened "
        "| nominal (95 % range) |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for design in given.design or ("movie", "blocks"):
        sets = tqdm(range(given.sets), desc=design)
        found = np.array(
            [
                explain(simulate(seed, design, given.classes), design, given.fill, seed)
                for seed in sets
            ]
        )
        low, high = (int(each) for each in binom.interval(0.95, given.sets, 0.05))
        cells = " | ".join(f"{n} of {given.sets}" for n in found.sum(axis=0))
        name = f"{design}, {given.fill}" + f", {given.classes} classes" * (design == "movie")
        print(f"| {name} | {cells} | {low} to {high} |", flush=True)


if __name__ == "__main__":
    main()
