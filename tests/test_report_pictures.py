"""Pictures of the report: right side, right sign, nothing merged that differs."""

import base64
import io
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from emodecode.report.brain import Backdrop, draw_map, looks_like_mni, make_backdrop
from emodecode.report.drawing import drawn_style, new_figure, to_svg
from emodecode.report.figures import swarm
from emodecode.report.timeline import draw_timeline, merge_times, write_label_figure
from results_folder import MNI_3MM


def _grid(step: float, *origin: float) -> np.ndarray:
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = origin
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "space", "expected"),
    [
        ((61, 73, 61), MNI_3MM, None, True),
        ((97, 115, 97), _grid(2, -96, -132, -78), None, True),
        ((64, 64, 44), _grid(3, -96, -96, -60), None, False),
        ((8, 8, 8), np.eye(4), None, False),
        ((8, 8, 8), np.eye(4), "MNI152NLin6Asym", True),
        ((61, 73, 61), MNI_3MM, "T1w", False),
    ],
)  # fmt: skip
def test_only_mni_grids_get_the_template(shape, affine, space, expected):
    assert looks_like_mni(shape, np.asarray(affine, dtype=float), space=space) is expected


def _pixels(address: str) -> np.ndarray:
    from PIL import Image

    content = base64.b64decode(address.split(",")[1])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=int)


def test_left_peak_is_drawn_on_the_left(tmp_path):
    """A positive blob in the left hemisphere reddens the left half of the axial cut."""
    values = np.zeros((61, 73, 61), dtype=np.float32)
    affine = MNI_3MM.copy()
    mm = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1) @ affine[:3, :3]
    mm = mm + affine[:3, 3]
    values[((mm - (-36, -20, 12)) ** 2).sum(axis=-1) < 15**2] = 1.0
    flipped = values[::-1]
    turned = affine.copy()
    turned[0] = [-3, 0, 0, 90]
    nib.save(nib.Nifti1Image(np.ones(values.shape, np.uint8), affine), tmp_path / "mask.nii.gz")
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "ras.nii.gz")
    nib.save(nib.Nifti1Image(flipped, turned), tmp_path / "las.nii.gz")
    backdrop = make_backdrop(tmp_path / "mask.nii.gz")
    assert isinstance(backdrop, Backdrop)
    assert backdrop.on_template
    pictures = [
        draw_map(tmp_path / name, backdrop, at_mm=[-36, -20, 12])
        for name in ("ras.nii.gz", "las.nii.gz")
    ]
    assert pictures[0] == pictures[1]
    picture = _pixels(pictures[0])
    red = (picture[..., 0] - picture[..., 2] > 60) & (picture[..., 1] < 110)
    width = red.shape[1]
    columns = np.flatnonzero(red[:, int(0.62 * width) : int(0.86 * width)].sum(axis=0))
    assert 0 < columns.mean() < 0.5 * 0.24 * width


def test_small_blobs_keep_their_sign(tmp_path):
    values = np.random.default_rng(0).normal(0, 0.02, (61, 73, 61)).astype(np.float32)
    values[20:22, 33:35, 28:30] = 1.0
    values[26:28, 33:35, 28:30] = -1.0
    nib.save(nib.Nifti1Image(np.ones(values.shape, np.uint8), MNI_3MM), tmp_path / "mask.nii.gz")
    nib.save(nib.Nifti1Image(values, MNI_3MM), tmp_path / "map.nii.gz")
    backdrop = make_backdrop(tmp_path / "mask.nii.gz")
    red, _, blue = np.moveaxis(
        _pixels(draw_map(tmp_path / "map.nii.gz", backdrop, at_mm=[-20, -25, 15])), -1, 0
    )
    body = slice(0, int(0.85 * red.shape[1]))
    assert (red - blue)[:, body].max() > 90
    assert (blue - red)[:, body].max() > 60


def test_backdrop_off_the_template_is_the_mask(tmp_path):
    inside = np.zeros((12, 14, 10), dtype=np.uint8)
    inside[3:9, 4:10, 2:8] = 1
    nib.save(nib.Nifti1Image(inside, np.diag([3.0, 3, 3, 1])), tmp_path / "mask.nii.gz")
    backdrop = make_backdrop(tmp_path / "mask.nii.gz")
    assert not backdrop.on_template
    assert (backdrop.grey > 0).sum() == inside.sum()
    corner = backdrop.affine @ [*np.argwhere(backdrop.grey > 0)[0], 1]
    assert corner[:3] == pytest.approx([9, 12, 6])


def test_neighbouring_times_become_one_bar():
    start, width = merge_times(np.array([0.0, 2, 4, 10, 12, 30]), 2.0)
    assert start.tolist() == [0, 10, 30]
    assert width.tolist() == [6, 4, 2]


def test_runs_of_one_design_share_a_row():
    rows = [
        {"subject": s, "session": "n/a", "run": "1", "onset_s": t, "label": "ab"[int(t > 8)]}
        for s in ("01", "02", "03")
        for t in np.arange(0, 20, 2.0) + (0.0 if s != "03" else 1.0)
    ]
    drawn, sentence = draw_timeline(pd.DataFrame(rows), None, {"a": "#111111", "b": "#222222"})
    assert "2 subjects, run 1" in drawn
    assert "sub-03, run 1" in drawn
    assert "over the time of its run" in sentence


def test_swarm_keeps_equal_values_apart_and_within_the_row():
    offsets = swarm(np.array([0.5] * 9 + [0.9]))
    assert len(set(offsets[:9])) == 9
    assert np.abs(offsets).max() <= 0.36
    assert offsets[9] == 0


def test_label_figure_is_a_picture(tmp_path):
    from PIL import Image

    from emodecode.label.labelled import Labelled

    timeline = pd.DataFrame(
        {
            "subject": "n/a",
            "run": "n/a",
            "time_s": np.arange(50.0),
            "label": ["a", "n/a"] * 25,
            "agreement": 0.7,
        }
    )
    samples = pd.DataFrame({"label": ["a"], "onset_s": [0.0], "stimulus_time_s": [np.nan]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_label_figure(Labelled(samples, timeline), tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.size[0] > 1000
    assert [path.name for path in tmp_path.iterdir()] == ["labels.png"]


def test_numbers_in_a_figures_text_are_not_rounded():
    """Coordinates are, to keep the page small."""
    with drawn_style():
        figure = new_figure(301, 100)
        figure.text(1 / 3, 0.5, "l2_0.00025")
        svg = to_svg(figure, name="one", title="one")
    assert ">l2_0.00025<" in svg
    assert "100.33" in svg
    assert "100.333" not in svg
