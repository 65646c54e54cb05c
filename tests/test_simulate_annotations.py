"""Simulated films with the labels of annotations: planted is what the observers agree on."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from bids_tree import make_image, write_json
from emodecode.cli import main
from emodecode.errors import InputError
from emodecode.label.consensus import cast_votes
from emodecode.label.episodes import find_episodes
from emodecode.label.votes import label_annotations
from emodecode.read.annotations import read_annotations
from emodecode.read.design import plan_runs
from emodecode.samples import read_table
from emodecode.sections import LABEL_PRESETS, STUDYFORREST_SEGMENTS_S
from emodecode.simulate.brain import make_brain
from emodecode.simulate.movie import AnnotatedFilm
from emodecode.simulate.recipe import make_recipe
from emodecode.simulate.runs import simulate_runs
from emodecode.simulate.world import event_at, make_world
from emodecode.study import load_study, published_form
from emodecode.workflow import audit_study
from test_real_studies import STUDIES

RUN_VOLUMES = [451, 441, 438, 488, 462, 439, 542, 338]
SEGMENTS_S = [(0.0, 60.0), (50.08, 120.0)]
EMOTIONS = ("FEAR", "LOVE")
COARSE = {"voxel_mm": 10.0, "n_subjects": 2, "classes": EMOTIONS, "segments_s": SEGMENTS_S}


def write_annotations(folder):
    """Three observers; at least two agree on FEAR 10-20 and 62-80 s, LOVE 30-45 and 90-110 s."""
    rows = {
        "a": ["10,20,,,,,FEAR", "30,45,,,,,LOVE", "62,80,,,,,FEAR", "90,110,,,,,LOVE"],
        "b": ["10,20,,,,,FEAR", "30,45,,,,,LOVE", "62,80,,,,,FEAR", "84,110,,,,,LOVE"],
        "c": ["14,26,,,,,LOVE", "62,80,,,,,", "90,110,BUBBA,HIGH,POS,SELF,LOVE"],
    }
    folder.mkdir(parents=True)
    for name, lines in rows.items():
        text = "start,end,character,arousal,valence,direction,emotion\n" + "\n".join(lines) + "\n"
        (folder / f"{name}.csv").write_text(text)
    return folder


def truth_at(moment_s):
    planted = [(10, 20, "FEAR"), (30, 46, "LOVE"), (62, 80, "FEAR"), (90, 110, "LOVE")]
    return next((name for start, end, name in planted if start <= moment_s < end), "n/a")


def simulate(*tokens):
    with pytest.raises(SystemExit) as done:
        main(["simulate", *map(str, tokens)])
    return done.value.code


def as_settings(choices):
    shown = {key: list(value) if key == "classes" else value for key, value in choices.items()}
    lists = {key: str(value).replace("(", "[").replace(")", "]") for key, value in shown.items()}
    return [part for key, value in lists.items() for part in ("--set", f"{key}={value}")]


def film_of(annotations):
    rules = LABEL_PRESETS["s1-as-published"]
    choices = {name: rules[name] for name in ("grid_s", "split_labels", "overwrite")}
    votes = cast_votes(annotations, **choices)
    return AnnotatedFilm(find_episodes(votes, agreement=0.5, break_ties=True))


def test_a_data_set_with_the_emotions_of_a_folder_of_annotations(tmp_path):
    given = write_annotations(tmp_path / "given")
    options = ("--preset", "s1", "--runs", "2", "--annotations", given, "--quiet")
    assert simulate(tmp_path / "film", *options, *as_settings(COARSE)) == 0
    scenes = read_table(tmp_path / "film/derivatives/truth/scenes.tsv")
    assert (scenes["start_s"][1:].to_numpy() == scenes["end_s"][:-1].to_numpy()).all()
    for moment_s in np.arange(0.5, 120):
        row = scenes[(scenes["start_s"] <= moment_s) & (moment_s < scenes["end_s"])].iloc[0]
        assert str(row["emotion"]).replace("nan", "n/a") == truth_at(moment_s), moment_s
    kept = read_annotations(tmp_path / "film/annotations")
    pd.testing.assert_frame_equal(kept, read_annotations(given))
    segments = read_table(tmp_path / "film/segments.tsv")
    assert segments[["start_s", "end_s"]].to_numpy(float).tolist() == [list(s) for s in SEGMENTS_S]
    events = pd.read_csv(tmp_path / "film/sub-02/func/sub-02_task-movie_run-2_events.tsv", sep="\t")
    assert set(events["trial_type"]) == {"scene"}
    assert "keep their own licence" in (tmp_path / "film/README").read_text()


def test_the_planted_pattern_follows_the_episodes(tmp_path):
    annotations = read_annotations(write_annotations(tmp_path / "given"))
    quiet = {"film": 0.0, "decoy": 0.0, "background": 0.0, "drift": 0.0, "shared": 1.0, "cnr": 5.0}
    found = simulate_runs(
        design="movie", annotated=film_of(annotations), **COARSE | quiet | {"fd_mm": 0.0}
    )
    assert [run.n_volumes for run in found.runs] == [30, 35] * 2  # 69.92 s: 35 volumes
    names = [region["name"] for region in found.truth["regions"]]
    regions = found.region_image.get_fdata()[found.mask.get_fdata() > 0]
    carry = np.isin(regions, [names.index(n) + 1 for n in found.truth["carries"]["linear"]])
    kinds, patterns = [], []
    for run in found.runs:
        moments = run.onset_s - 6 + run.stimulus_start_s
        shown = np.array([truth_at(moment) for moment in moments])
        relative = run.matrix[:, carry] / run.matrix[:, carry].mean(axis=0)
        for kind in EMOTIONS:
            kinds.append(kind)
            patterns.append(relative[shown == kind].mean(axis=0) - relative.mean(axis=0))
    alike = np.corrcoef(patterns)
    same = np.equal.outer(kinds, kinds)
    assert alike[same].min() > 0.8
    assert alike[~same].max() < -0.5  # two classes: centred patterns are opposite


@pytest.mark.data
def test_every_moment_of_the_real_film_has_the_label_of_the_observers(data_dir):
    annotations = read_annotations(
        data_dir / "studyforrest_annotations" / "emotions_raw", pattern="av1o*.csv"
    )
    recipe = make_recipe(
        preset="s1", n_subjects=1, voxel_mm=10.0, segments_s=STUDYFORREST_SEGMENTS_S
    )
    world = make_world(recipe, make_brain(recipe), annotated=film_of(annotations))
    plans = world.plans(0)
    assert [plan.n_volumes for plan in plans] == RUN_VOLUMES
    runs, _ = plan_runs(subjects=["01"], run_volumes=RUN_VOLUMES, tr_s=2.0, stimulus="film")
    rules = LABEL_PRESETS["s1-as-published"]
    names = ("agreement", "grid_s", "split_labels", "overwrite", "segments_s")
    table = label_annotations(
        runs, annotations, lag_s=0.0, **{name: rules[name] for name in names}
    ).table
    counts = {}
    for plan in plans:
        own = table[table["run"] == plan.run].set_index("volume")["label"]
        time_s = np.arange(plan.n_volumes) * 2.0
        planted = plan.events["trial_type"].to_numpy()[event_at(plan.events, time_s)]
        labelled = own.reindex(range(plan.n_volumes), fill_value="n/a").to_numpy()
        assert (planted == labelled).all(), plan.run
        for name in planted:
            counts[name] = counts.get(name, 0) + 1
    assert min(counts[name] for name in recipe.class_names) >= 70
    assert sum(map(len, world.annotations().values())) == 0  # film_of gave none


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"design": "blocks", "segments_s": None, "classes": None}, "annotations of a film"),
        ({"classes": ("HATE", "PRIDE")}, "no episode of HATE, PRIDE"),
        ({"n_runs": 3}, "at most 2"),
        ({"segments_s": [(0.0, 60.0), (0.0, 90.0)]}, "ascending order"),
        ({"segments_s": [(0.0, 10.0)], "n_runs": 1}, "20 volumes or more"),
        ({"design": "blocks"}, "only films have segments"),
    ],
)
def test_impossible_films(tmp_path, choices, message):
    annotations = read_annotations(write_annotations(tmp_path / "given"))
    with pytest.raises(InputError, match=message):
        simulate_runs(annotated=film_of(annotations), **COARSE | {"design": "movie"} | choices)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"start_s": [0], "end_s": [9]}, "no column emotion"),
        ({"start_s": [], "end_s": [], "emotion": []}, "no episode"),
        ({"start_s": [0, 5], "end_s": [9, 12], "emotion": ["a", "b"]}, "overlap"),
    ],
)
def test_episodes_that_are_none(rows, message):
    with pytest.raises(InputError, match=message):
        AnnotatedFilm(pd.DataFrame(rows))


def test_a_missing_folder_is_named(tmp_path, capsys):
    assert simulate(tmp_path / "x", "--preset", "s1", "--annotations", tmp_path / "nowhere") == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------- S2-B's volumes


def test_gains_of_the_runs_scale_them_and_change_nothing_else():
    small = {"preset": "s2b", "shape": None, "voxel_mm": 10.0, "n_subjects": 2}
    with_gain = simulate_runs(**small).runs
    without = simulate_runs(**small, gain_sd=0.0).runs
    gains = [a.matrix.mean() / b.matrix.mean() for a, b in zip(with_gain, without, strict=True)]
    assert np.ptp(gains) > 0.05
    for gain, run, plain in zip(gains, with_gain, without, strict=True):
        np.testing.assert_allclose(run.matrix, gain * plain.matrix, rtol=1e-4)


def test_preset_s2b_has_whole_volumes():
    recipe = make_recipe(preset="s2b")
    assert make_brain(recipe).inside.shape == (64, 64, 44)
    assert (recipe.n_subjects, recipe.class_names) == (11, ("rest", "neutral", "negative"))


# ---------------------------------------------------------------- the studies


def verdicts(study):
    """Of the honest folds and of the published ones."""
    return audit_study(study).verdict, audit_study(published_form(study)).verdict


S1_STUDIES = ["s1_decoding", "s1_ds000113"]


@pytest.mark.data
@pytest.mark.parametrize("name", S1_STUDIES)
def test_s1_studies_are_clean_where_the_published_form_leaks(data_dir, name):
    design = {"source": "design", "subjects": ["01", "02", "03"], "run_volumes": RUN_VOLUMES}
    study = load_study(
        STUDIES / f"{name}.toml",
        overrides={
            "data": design | {"tr_s": 2.0, "stimulus": "film"},
            "labels.path": str(data_dir / "studyforrest_annotations" / "emotions_raw"),
        },
    )
    assert verdicts(study) == ("clean", "leak")


@pytest.mark.data
def test_ds000113_and_its_design_have_the_same_labels(data_dir, tmp_path):
    """A tree as openneuro's, with images of one voxel block each."""
    people = ["01", "02", "20"]
    for subject in people:
        folder = tmp_path / f"sub-{subject}" / "ses-movie" / "func"
        folder.mkdir(parents=True)
        for run, n_volumes in enumerate(RUN_VOLUMES, start=1):
            stem = folder / f"sub-{subject}_ses-movie_task-movie_run-{run}"
            make_image(np.ones((2, 2, 2, n_volumes), np.int16)).to_filename(f"{stem}_bold.nii.gz")
            write_json(folder / f"{stem.name}_bold.json", {"RepetitionTime": 2.00000061})
    real = load_study(
        STUDIES / "s1_ds000113.toml",
        overrides={"data.path": str(tmp_path), "data.subjects": people},
    )
    design = load_study(STUDIES / "s1_ds000113_design.toml", overrides={"data.subjects": people})
    from emodecode.assemble import sample_table

    columns = ["subject", "run", "volume", "label", "stimulus_time_s"]
    (first, _), (second, _) = sample_table(real), sample_table(design)
    pd.testing.assert_frame_equal(first[columns], second[columns])
    assert len(first[first["subject"] == "20"]) == 359  # 350 moments, 9 of them in two runs
    assert verdicts(real) == ("clean", "leak")


def test_s2b_study_is_clean_where_the_published_form_leaks(tmp_path):
    tokens = ("--preset", "s2b", "--subjects", "3", "--quiet")
    coarse = ("--set", "shape=[16,19,16]", "--set", "voxel_mm=10.0")
    assert simulate(tmp_path / "s2b", *tokens, *coarse) == 0
    for name in ("s2b_simulated", "s2b_network"):
        path = STUDIES / f"{name}.toml"
        study = load_study(path, overrides={"data.path": str(tmp_path / "s2b")})
        assert verdicts(study) == ("clean", "leak")


def test_s2b_study_reads_the_authors_files(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    (tmp_path / "s2b_mat").mkdir()
    codes = np.tile(np.repeat([0, 1, 0, 2], 5), 2)
    for subject, run in (("E13281", 7), ("E13281", 8), ("E13282", 3), ("E13300", 5)):
        cells = np.empty((1, len(codes)), dtype=object)
        for number in range(len(codes)):
            cells[0, number] = rng.normal(1000, 10, (6, 6, 4))
        content = {"I": cells[:, :30], "I_test": cells[:, 30:]}
        content |= {"labels": codes[None, :30], "labels_test": codes[None, 30:]}
        name = f"{subject}_run{run}_3D_wholeBrain_allConds.mat"
        savemat(tmp_path / "s2b_mat" / name, content)
    monkeypatch.setenv("EMODECODE_DATA", str(tmp_path))
    study = load_study(STUDIES / "s2b_mat.toml")
    assert verdicts(study) == ("clean", "leak")
