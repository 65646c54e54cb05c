"""The simulator: what is planted can be found, what is not planted cannot."""

import json
import time
from itertools import combinations

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import spm_hrf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emodecode.errors import InputError
from emodecode.samples import read_table
from emodecode.simulate.brain import make_brain, make_patch
from emodecode.simulate.dataset import simulate_dataset
from emodecode.simulate.recipe import make_recipe
from emodecode.simulate.runs import simulate_runs
from emodecode.simulate.samples import simulate_samples
from emodecode.simulate.signals import (
    framewise_displacement,
    head_motion,
    response,
    smooth_field,
)
from emodecode.simulate.subjects import make_subject
from emodecode.simulate.world import make_world

FEELINGS = ("FEAR", "HAPPINESS", "SADNESS")


def _decoder():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))


def _folds(table, *, n_folds=None):
    """Boolean (train, test) over subjects, or groups of subjects."""
    subject = table["subject"].to_numpy()
    for group in np.array_split(np.unique(subject), n_folds or len(np.unique(subject))):
        test = np.isin(subject, group)
        yield ~test, test


def _auc(model, X, y, folds):
    """Macro AUC, mean over folds."""
    return np.mean(
        [
            roc_auc_score(
                y[test], model.fit(X[train], y[train]).predict_proba(X[test]), multi_class="ovr"
            )
            for train, test in folds
        ]
    )


# ---------------------------------------------------------------- the codes


def test_linear_code_is_decoded_across_subjects():
    samples = simulate_samples(seed=3)
    assert _auc(_decoder(), samples.X, samples.y, _folds(samples.table)) > 0.85
    weak = simulate_samples(seed=3, effect=0.2)
    assert 0.5 < _auc(_decoder(), weak.X, weak.y, _folds(weak.table)) < 0.75


def test_null_code_is_at_chance():
    scores = []
    for seed in range(20):
        samples = simulate_samples(code="null", seed=seed)
        for train, test in _folds(samples.table, n_folds=4):
            model = _decoder().fit(samples.X[train], samples.y[train])
            scores.append(balanced_accuracy_score(samples.y[test], model.predict(samples.X[test])))
    assert np.mean(scores) == pytest.approx(1 / 3, abs=0.02)


def _axis_scores(choices):
    """Samples and the true coordinates of A and B in each (an oracle that knows the maps)."""
    samples = simulate_samples(**choices)
    recipe = make_recipe(**choices)
    world = make_world(recipe, make_patch(recipe))
    scores = np.zeros((samples.n_samples, 2))
    for number, name in enumerate(recipe.subject_names()):
        rows = samples.subjects == name
        for part in (0, 1):
            columns = world.brain.columns(part)
            pattern = make_subject(world, number).topography[columns] @ world.pair_axes[part]
            scores[rows, part] = samples.X[np.ix_(rows, columns)] @ pattern / (pattern @ pattern)
    return samples, scores


def test_interaction_code_needs_products():
    linear, product, kernel = [], [], []
    for seed in range(4):
        samples, scores = _axis_scores({"code": "interaction", "seed": seed})
        y, folds = samples.y, list(_folds(samples.table, n_folds=6))
        linear.append(_auc(_decoder(), samples.X, y, folds))
        linear.append(_auc(_decoder(), scores, y, folds))
        product.append(_auc(_decoder(), scores.prod(axis=1, keepdims=True), y, folds))
        with_kernel = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovr"))
        kernel.append(
            np.mean(
                [
                    balanced_accuracy_score(
                        y[test], with_kernel.fit(scores[train], y[train]).predict(scores[test])
                    )
                    for train, test in folds
                ]
            )
        )
    assert np.mean(linear) == pytest.approx(0.5, abs=0.03)
    assert np.mean(product) > 0.65  # 0.75 is the most there is: the third class has any sign
    assert np.mean(kernel) > 1 / 3 + 0.1


def test_interaction_code_has_no_class_means():
    samples, scores = _axis_scores({"code": "interaction", "seed": 0, "cnr": 2.0})
    table = pd.DataFrame({"a": scores[:, 0], "b": scores[:, 1], "label": samples.y})
    table["product"] = np.sign(table["a"] * table["b"])
    mean = table.groupby("label").mean()
    assert np.all(np.abs(mean[["a", "b"]]) < 1.0)  # blocks lie at +-4: three standard errors
    assert mean.loc["negative", "product"] > 0.9
    assert mean.loc["neutral", "product"] < -0.9
    assert abs(mean.loc["positive", "product"]) < 0.3


def test_mixed_code_is_weak_for_unaligned_linear_models():
    """Setting C of the specification: LR unaligned .573 there, in the band .55-.75."""
    scores = []
    for seed in range(3):
        samples = simulate_samples(code="mixed", ar1=0.4, seed=seed)
        scores.append(_auc(_decoder(), samples.X, samples.y, _folds(samples.table, n_folds=6)))
    assert 0.54 < np.mean(scores) < 0.68


def test_random_labels_in_a_film_fool_leave_one_subject_out_only():
    over_subjects, over_both = [], []
    for seed in range(8):
        samples = simulate_samples(
            design="movie", labels="random", classes=FEELINGS, overlap_s=0, n_subjects=6, seed=seed
        )
        run = samples.table["run"].to_numpy()
        for train, test in _folds(samples.table):
            model = _decoder().fit(samples.X[train], samples.y[train])
            over_subjects.append(
                balanced_accuracy_score(samples.y[test], model.predict(samples.X[test]))
            )
            for name in ("1", "2"):
                fitted, held = train & (run != name), test & (run == name)
                model = _decoder().fit(samples.X[fitted], samples.y[fitted])
                over_both.append(
                    balanced_accuracy_score(samples.y[held], model.predict(samples.X[held]))
                )
    assert np.mean(over_subjects) > 1 / 3 + 0.2
    assert np.mean(over_both) == pytest.approx(1 / 3, abs=0.07)


def test_film_without_any_stimulus_response_is_no_trap():
    scores = []
    for seed in range(6):
        choices = {"labels": "random", "decoy": 0.0, "film": 0.0, "n_subjects": 6, "seed": seed}
        samples = simulate_samples(design="movie", classes=FEELINGS, **choices)
        for train, test in _folds(samples.table):
            model = _decoder().fit(samples.X[train], samples.y[train])
            scores.append(balanced_accuracy_score(samples.y[test], model.predict(samples.X[test])))
    assert np.mean(scores) == pytest.approx(1 / 3, abs=0.05)


# ---------------------------------------------------------------- stimulus and subjects


@pytest.mark.parametrize("isc", [0.05, 0.1, 0.2])
def test_pairwise_isc_of_the_decoy(isc):
    samples = simulate_samples(
        design="movie", decoy=isc, average="none", n_subjects=8, n_volumes=400, seed=1
    )
    courses = np.stack(
        [samples.X[samples.subjects == name] for name in sorted(set(samples.subjects))]
    )
    courses = (courses - courses.mean(1, keepdims=True)) / courses.std(1, keepdims=True)
    pairs = [(a * b).mean(axis=0) for a, b in combinations(courses, 2)]
    per_voxel = np.mean(pairs, axis=0)
    assert per_voxel[160:].mean() == pytest.approx(isc, rel=0.25)
    assert per_voxel[:160].mean() < 0.08  # the film reaches the others through own topographies


def test_topographies_share_what_they_should():
    recipe = make_recipe(shared=0.3, n_region_voxels=300, seed=2)
    world = make_world(recipe, make_patch(recipe))
    maps = [make_subject(world, n).topography.ravel() for n in range(6)]
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in combinations(maps, 2)]
    assert np.mean(correlation) == pytest.approx(0.3, abs=0.02)


def test_a_subject_does_not_depend_on_the_others():
    few, many = simulate_samples(n_subjects=2, seed=5), simulate_samples(n_subjects=4, seed=5)
    np.testing.assert_array_equal(few.X, many.X[: few.n_samples])
    assert not np.array_equal(few.X, simulate_samples(n_subjects=2, seed=6).X)


def test_block_orders():
    table = simulate_samples(n_subjects=3).table
    orders = [part["label"].tolist() for _, part in table.groupby("subject")]
    assert orders[0] != orders[1]
    same = simulate_samples(n_subjects=3, same_order=True).table
    orders = [part["label"].tolist() for _, part in same.groupby("subject")]
    assert orders[0] == orders[1] == orders[2]
    for _, part in table.groupby(["subject", "run"]):
        assert set(part["label"].value_counts()) == {6}
        assert not (part["label"].to_numpy()[1:] == part["label"].to_numpy()[:-1]).any()


def test_preset_s2_has_its_counts():
    samples = simulate_samples(preset="s2", average="none", lag_s=0.0)
    assert samples.table["label"].value_counts().to_dict() == {
        "rest": 2200,
        "neutral": 1100,
        "negative": 1100,
    }
    assert samples.table.groupby(["subject", "run"]).ngroups == 22


def test_groups_and_stimuli_in_the_table():
    table = simulate_samples(n_subjects=4, decoy=0.1).table
    assert table.groupby("subject")["group"].first().tolist() == ["HC", "MDD", "HC", "MDD"]
    moments = table.groupby("subject")["stimulus_time_s"].apply(lambda part: sorted(round(part)))
    assert all(moment == moments.iloc[0] for moment in moments)  # the same pictures for all
    assert table["stimulus"].unique().tolist() == ["pictures"]
    assert simulate_samples(n_subjects=1).table["stimulus_time_s"].isna().all()


def test_film_run_for_alignment_is_unlabelled():
    table = simulate_samples(n_subjects=2, film_volumes=100).table
    film = table[table["run"] == "film"]
    assert len(film) == 200
    assert set(film["label"]) == {"n/a"}
    assert set(film["stimulus"]) == {"film"}


def test_overlapping_segments_show_the_same_scene():
    table = simulate_samples(design="movie", n_subjects=1, average="none", lag_s=4.0).table
    first, second = (table[table["run"] == run].set_index("stimulus_time_s") for run in "12")
    common = first.index.intersection(second.index)
    assert 0 < len(common) <= 8  # 16 s of overlap at 2 s, less the lag
    assert (first.loc[common, "label"] == second.loc[common, "label"]).all()


@pytest.mark.parametrize("tr_s", [0.72, 1.3, 3.0])
@pytest.mark.parametrize("design", ["blocks", "movie"])
def test_any_repetition_time(design, tr_s):
    samples = simulate_samples(design=design, tr_s=tr_s, n_subjects=1, n_runs=3, decoy=0.1)
    assert np.isfinite(samples.X).all()
    assert samples.table.groupby("run").ngroups == 3


# ---------------------------------------------------------------- noise


def test_response_equals_nilearns():
    ours = response(peak_s=5.0, dt_s=0.1)
    theirs = spm_hrf(2.0, oversampling=20, time_length=32.0)
    assert np.corrcoef(ours, theirs)[0, 1] > 0.995
    assert np.argmax(response(peak_s=6.5, dt_s=0.1)) * 0.1 == pytest.approx(6.5, abs=0.11)


def test_autocorrelation_and_temporal_sfnr():
    quiet = {"code": "null", "background": 0.0, "motion_residual": 0.0, "n_subjects": 1}
    plain = {"drift": 0.0, "physiology": 0.0, "white": 0.0, "n_runs": 1, "n_volumes": 400}
    run = simulate_runs(**quiet, **plain, ar1=0.3).runs[0]
    noise = run.matrix - run.matrix.mean(axis=0)
    lag1 = (noise[1:] * noise[:-1]).sum(axis=0) / (noise**2).sum(axis=0)
    assert lag1.mean() == pytest.approx(0.3, abs=0.02)
    assert run.matrix.mean() == pytest.approx(1000, rel=0.03)
    for choices in (quiet | plain, quiet | {"n_volumes": 400, "n_runs": 1}):
        matrix = simulate_runs(**choices, sfnr=70.0).runs[0].matrix
        sfnr = matrix.mean(axis=0) / matrix.std(axis=0)
        assert np.median(sfnr) == pytest.approx(70, rel=0.06)


def test_smoothness_of_the_noise():
    recipe = make_recipe()
    brain = make_brain(recipe)
    field = smooth_field(np.random.default_rng(0), brain, fwhm_mm=12.0, n_fields=40)
    volume = np.full((*brain.inside.shape, 40), np.nan)
    volume[brain.inside] = field.T
    left, right = volume[1:].ravel(), volume[:-1].ravel()
    both = np.isfinite(left) & np.isfinite(right)
    sigma_mm = 12.0 / np.sqrt(8 * np.log(2))
    expected = np.exp(-(recipe.voxel_mm**2) / (4 * sigma_mm**2))
    assert np.corrcoef(left[both], right[both])[0, 1] == pytest.approx(expected, abs=0.03)
    assert field.std() == pytest.approx(1, abs=0.05)


def test_head_motion_has_the_displacement_asked_for():
    recipe = make_recipe(fd_mm=0.2, n_spikes=0)
    motion = head_motion(np.random.default_rng(0), recipe, n_volumes=500)
    displacement = framewise_displacement(motion)
    assert np.isnan(displacement[0])
    assert displacement[1:].mean() == pytest.approx(0.2, rel=0.05)
    change = motion.diff().abs()
    by_hand = change.iloc[7, :3].sum() + 50 * change.iloc[7, 3:].sum()
    assert displacement[7] == pytest.approx(by_hand)
    spiky = head_motion(np.random.default_rng(0), make_recipe(n_spikes=2), n_volumes=500)
    assert 0.4 < np.nanmax(framewise_displacement(spiky)) < 1.8


# ---------------------------------------------------------------- the brain


def test_brain_has_the_named_regions():
    brain = make_brain(make_recipe())
    assert 3000 < brain.n_voxels < 5000
    assert brain.inside.shape == (26, 31, 26)
    sizes = np.bincount(brain.labels)[1:]
    assert len(sizes) == len(brain.regions) >= 8
    assert sizes.min() >= 20
    mm = brain.coordinates_mm()
    left = mm[brain.columns([r.name for r in brain.regions].index("insula_L"))]
    np.testing.assert_allclose(left.mean(axis=0), (-38, 14, -2), atol=3)
    fine = make_brain(make_recipe(shape=(64, 64, 44), voxel_mm=3.0))
    assert fine.inside.shape == (64, 64, 44)
    assert fine.n_voxels == pytest.approx(8 * brain.n_voxels, rel=0.03)


def test_planted_regions_carry_the_code():
    found = simulate_runs(cnr=2.0, n_subjects=1, n_volumes=120, drift=0.0, n_spikes=0)
    labels = found.region_image.get_fdata()[found.mask.get_fdata() > 0].astype(int)
    between = []
    for run in found.runs:
        middle = [
            run.matrix[(run.onset_s > onset_s + 8) & (run.onset_s < onset_s + 22)].mean(axis=0)
            for onset_s in run.events["onset_s"]
        ]
        kinds = pd.DataFrame(middle).groupby(run.events["trial_type"].to_numpy()).mean()
        between.append(kinds - kinds.mean())
    agreement = (between[0] * between[1]).sum().to_numpy()  # covariance of class means over runs
    strength = [agreement[labels == number].mean() for number in range(1, labels.max() + 1)]
    names = [region["name"] for region in found.truth["regions"]]
    order = sorted(names, key=dict(zip(names, strength, strict=True)).get, reverse=True)
    assert (
        set(order[:3]) == {"insula_L", "insula_R", "ACC"} == set(found.truth["carries"]["linear"])
    )
    assert found.truth["carries"]["interaction"] == []


def test_misaligned_anatomy():
    recipe = make_recipe(shift_mm=8.0, warp_mm=3.0)
    world = make_world(recipe, make_brain(recipe))
    labels = make_subject(world, 0).labels
    inside = world.brain.labels > 0
    same = (labels == world.brain.labels)[inside].mean()
    assert 0.2 < same < 0.9


# ---------------------------------------------------------------- on disk


SMALL = {"n_subjects": 2, "n_volumes": 60, "seed": 4, "progress": False}


def _bytes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_data_set_is_valid_and_repeatable(tmp_path):
    folder = simulate_dataset(tmp_path / "one", **SMALL)
    first = _bytes(folder)
    assert _bytes(simulate_dataset(tmp_path / "two", n_jobs=2, **SMALL)) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    func = folder / "derivatives" / "fmriprep" / "sub-02" / "func"
    stem = "sub-02_task-emotion_run-1"
    image = nib.load(func / f"{stem}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz")
    mask = nib.load(func / f"{stem}_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz")
    assert image.shape == (26, 31, 26, 60)
    assert image.header.get_zooms()[3] == 2.0
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(image.affine, mask.affine)
    data, inside = np.asanyarray(image.dataobj), mask.get_fdata() > 0
    assert data[~inside].max() == 0
    assert data[inside].mean() == pytest.approx(1000, rel=0.05)
    run = simulate_runs(n_subjects=2, n_volumes=60, seed=4).runs[2]
    assert (run.subject, run.run) == ("02", "1")
    np.testing.assert_allclose(data[inside].T, run.matrix, atol=0.51)
    confounds = read_table(func / f"{stem}_desc-confounds_timeseries.tsv")
    np.testing.assert_allclose(confounds, run.confounds, atol=1e-6)
    assert "n/a" in (func / f"{stem}_desc-confounds_timeseries.tsv").read_text().splitlines()[1]
    events = pd.read_csv(folder / "sub-02" / "func" / f"{stem}_events.tsv", sep="\t")
    assert list(events.columns[:3]) == ["onset", "duration", "trial_type"]
    assert (events["onset"] + events["duration"]).max() <= 120


def test_root_files(tmp_path):
    folder = simulate_dataset(tmp_path / "set", **SMALL)
    description = json.loads((folder / "dataset_description.json").read_text())
    assert {"Name", "BIDSVersion"} <= set(description)
    derived = json.loads((folder / "derivatives/fmriprep/dataset_description.json").read_text())
    assert derived["GeneratedBy"][0]["Name"]
    sidecar = json.loads((folder / "task-emotion_bold.json").read_text())
    assert sidecar == {"TaskName": "emotion", "RepetitionTime": 2.0}
    people = pd.read_csv(folder / "participants.tsv", sep="\t")
    assert list(people.columns) == ["participant_id", "age", "sex", "group"]
    assert people["participant_id"].tolist() == ["sub-01", "sub-02"]
    truth = json.loads((folder / "derivatives/truth/truth.json").read_text())
    regions = nib.load(folder / "derivatives/truth/regions.nii.gz").get_fdata()
    for region in truth["regions"]:
        assert (regions == region["number"]).sum() == region["n_voxels"]
    assert truth["parameters"]["seed"] == 4


def test_film_on_disk(tmp_path):
    folder = simulate_dataset(tmp_path / "film", design="movie", **SMALL | {"n_volumes": 120})
    segments = pd.read_csv(folder / "segments.tsv", sep="\t")
    assert segments["end_s"][0] - segments["start_s"][1] == 16
    observers = sorted((folder / "annotations").glob("obs*.csv"))
    assert len(observers) == 9
    table = pd.read_csv(observers[0])
    assert ",".join(table.columns) == (
        "start,end,character,arousal,valence,direction,emotion,oncue,offcue"
    )
    assert (table["end"] > table["start"]).all()
    assert (table["start"] % 1 == 0).all()
    scenes = pd.read_csv(folder / "derivatives/truth/scenes.tsv", sep="\t")
    assert scenes["end_s"].iloc[-1] == segments["end_s"].iloc[-1]
    events = pd.read_csv(folder / "sub-01/func/sub-01_task-movie_run-2_events.tsv", sep="\t")
    assert set(events["trial_type"]) == {"scene"}


def test_observers_agree_as_in_studyforrest():
    found = simulate_runs(design="movie", n_subjects=1, n_runs=8, n_volumes=60, film=0.0)
    votes = np.zeros((9, 2, int(found.scenes["end_s"].max())))
    for number, table in enumerate(found.annotations.values()):
        for row in table.itertuples():
            for kind, name in enumerate(("FEAR", "HAPPINESS")):
                if name in row.emotion.split():
                    votes[number, kind, int(row.start) : int(row.end)] = 1
    halves = [list(half) for half in combinations(range(9), 4)]
    agreement = [
        np.corrcoef(votes[half].mean(0)[kind], np.delete(votes, half, 0).mean(0)[kind])[0, 1]
        for half in halves
        for kind in (0, 1)
    ]
    assert 0.57 < np.mean(agreement) < 0.9


def test_existing_folders_are_kept(tmp_path):
    folder = simulate_dataset(tmp_path / "set", **SMALL)
    with pytest.raises(InputError, match="exists already"):
        simulate_dataset(folder, **SMALL)
    simulate_dataset(folder, overwrite=True, **SMALL | {"n_subjects": 1})
    assert not (folder / "sub-02").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"truth\.json"):
        simulate_dataset(tmp_path / "mine", overwrite=True, **SMALL)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        simulate_dataset(tmp_path / "file" / "set", **SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "mine", "set"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"desing": "movie"}, "design"),
        ({"design": "film"}, "blocks, movie"),
        ({"code": "quadratic"}, "linear, interaction"),
        ({"preset": "s3"}, "s2"),
        ({"n_subjects": 0}, "at least 1"),
        ({"decoy": 1.0}, "0.9"),
        ({"shared": 1.5}, "from 0 to 1"),
        ({"drift": 0.9, "white": 0.6}, "below 1"),
        ({"classes": ("fear",)}, "two or more"),
        ({"design": "movie", "overlap_s": 500.0}, "less than a run"),
        ({"n_volumes": 25}, "one block of each class"),
        ({"voxel_mm": 20.0}, "smaller voxels"),
        ({"shape": (10, 10, 10)}, "holds the brain"),
    ],
)
def test_impossible_choices(tmp_path, choices, message):
    with pytest.raises(InputError, match=message):
        simulate_dataset(tmp_path / "set", **choices)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_demo_data_set_takes_seconds(tmp_path):
    start_s = time.process_time()
    simulate_dataset(tmp_path / "demo", progress=False)
    assert time.process_time() - start_s < 40
