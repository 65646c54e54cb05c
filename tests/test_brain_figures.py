"""Glass brain, mosaic, surface and the figure that turns: sides, safety, nothing fetched."""

import base64
import hashlib
import io
import json
import re
import shutil
import socket
import subprocess
import urllib.request

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from emodecode.errors import InputError
from emodecode.report import surface
from emodecode.report.brain import make_backdrop
from emodecode.report.glass import draw_glass, draw_mosaic, scale_end
from emodecode.report.scatter3d import (
    outline_of,
    safe_json,
    scatter_block,
    scatter_script,
    script_hash,
)
from emodecode.report.surface import draw_surface, project

SHAPE = (61, 73, 61)
AFFINE = np.array([[3.0, 0, 0, -90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
LEFT_FRONTAL = (-40.0, 34.0, 26.0)


def mm_of(shape=SHAPE, affine=AFFINE):
    grid = np.moveaxis(np.indices(shape), 0, -1)
    return grid @ affine[:3, :3].T + affine[:3, 3]


def write(path, values, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.asarray(values, dtype=np.float32), affine), path)
    return path


def blob(place=LEFT_FRONTAL, width_mm=7.0):
    values = np.exp(-((mm_of() - place) ** 2).sum(axis=-1) / 2 / width_mm**2)
    return np.where(values > 0.05, values, 0)


def pixels(address):
    head, text = address.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).astype(int)


def red_columns(address):
    """Columns of clearly red pixels, as shares of the width, without the scale at the right."""
    image = pixels(address)
    image = image[:, : int(image.shape[1] * 0.925)]
    return np.nonzero(image[..., 0] - image[..., 2] > 60)[1] / (image.shape[1] / 0.925)


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("something was to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("NILEARN_DATA", str(tmp_path / "none"))
    for cached in (surface._view, surface._ribbon_mm, surface._folding, surface._mesh):
        cached.cache_clear()


def test_left_stays_left_on_the_surface(tmp_path, no_network):
    """A blob at x = -40 lies on the left mesh alone and in the left two views, in front."""
    found = project(blob(), AFFINE)
    assert found["left"].max() > 0.8
    assert not found["right"].any()
    columns = red_columns(draw_surface(write(tmp_path / "map.nii.gz", blob())))
    assert len(columns) > 100
    assert columns.max() < 0.22  # the first view: left, lateral ...
    assert columns.mean() < 0.11  # ... where the front is at the left


def test_the_mirrored_blob_lies_on_the_right(tmp_path):
    mirrored = blob((40.0, 34.0, 26.0))
    found = project(mirrored, AFFINE)
    assert not found["left"].any()
    columns = red_columns(draw_surface(write(tmp_path / "map.nii.gz", mirrored)))
    assert columns.min() > 0.69  # the last view: right, lateral


def test_projection_of_coordinates_is_exact():
    """The volume "x in mm" gives x of the ribbon: trilinear interpolation is exact on it."""
    values = mm_of()[..., 0] + 500
    for side in surface.HEMISPHERES:
        expected = surface._ribbon_mm(side)[..., 0].mean(axis=0)
        np.testing.assert_allclose(project(values, AFFINE)[side] - 500, expected, atol=1e-3)


def test_projection_agrees_with_nilearn():
    from nilearn.datasets import fetch_surf_fsaverage
    from nilearn.surface import vol_to_surf

    values = gaussian_filter(np.random.default_rng(0).normal(size=SHAPE), 2) + 5
    to_mni305 = np.linalg.inv(np.vstack([surface._TO_MNI152, [0, 0, 0, 1]]))
    image = nib.Nifti1Image(values, to_mni305 @ AFFINE)
    meshes = fetch_surf_fsaverage("fsaverage5")
    theirs = vol_to_surf(
        image,
        meshes["pial_left"],
        inner_mesh=meshes["white_left"],
        depth=list(surface._DEPTHS),
        interpolation="linear",
    )
    np.testing.assert_allclose(project(values, AFFINE)["left"], theirs, atol=1e-5)


def test_the_edge_of_the_mask_is_not_diluted():
    """A constant map of one half has its value or none, nothing between."""
    values = np.where(mm_of()[..., 1] > 0, 2.0, np.nan)
    found = project(values, AFFINE)["left"]
    assert set(np.unique(found.round(6))) == {0.0, 2.0}


def test_glass_brain_keeps_sides_and_what_to_show(tmp_path, no_network):
    file = write(tmp_path / "map.nii.gz", blob())
    columns = red_columns(draw_glass(file, n_top=100))
    behind, above = columns[(columns > 0.25) & (columns < 0.46)], columns[columns > 0.72]
    assert len(behind) > 20
    assert len(above) > 20
    assert behind.max() < 0.355  # left of the middle of the view from behind
    assert above.max() < 0.81  # and of the one from above
    assert not ((columns > 0.46) & (columns < 0.72)).any()  # nothing in the right half's view
    certain = write(tmp_path / "pfwe.nii.gz", 0.96 * (blob() > 0.5))
    sure = red_columns(draw_glass(file, significant=certain))
    assert len(sure) > 20
    assert sure[(sure > 0.25) & (sure < 0.46)].max() < 0.355
    assert not ((sure > 0.46) & (sure < 0.72)).any()
    assert draw_glass(file, significant=certain, alpha=0.01) is None
    assert draw_glass(file, threshold=2.0) is None
    assert draw_glass(write(tmp_path / "negative.nii.gz", -blob()), n_top=5) is None
    with pytest.raises(InputError, match="exactly one"):
        draw_glass(file, n_top=5, threshold=0.5)
    with pytest.raises(InputError, match="exactly one"):
        draw_glass(file)
    with pytest.raises(InputError, match="one grid"):
        draw_glass(file, significant=write(tmp_path / "p.nii.gz", np.ones((4, 4, 4))))


def test_mosaic_keeps_sides_and_greys(tmp_path, no_network):
    inside = ((mm_of() - (0, -18, 8)) ** 2 / np.array((66, 84, 60)) ** 2).sum(axis=-1) < 1
    mask = write(tmp_path / "mask.nii.gz", inside)
    file = write(tmp_path / "map.nii.gz", blob(width_mm=9.0) + 1e-9 * inside)
    image = pixels(draw_mosaic(file, make_backdrop(mask), n_cuts=5, limit=1.0))
    width = image.shape[1]
    columns = np.nonzero(image[:, : int(width * 0.92), 0] - image[:, : int(width * 0.92), 2] > 60)[
        1
    ]
    cut = width * 0.916 / 5
    assert len(columns) > 10
    assert len(set((columns // cut).astype(int))) == 1  # in one of the five cuts
    assert ((columns % cut) < cut / 2).all()  # left of its middle
    rest = image[5 : int(image.shape[0] * 0.8), : int(cut)]  # a cut without the blob
    names = rest.max(axis=2) < 130  # the letters L and R are of ink
    assert (np.ptp(rest, axis=2)[~names] <= 8).mean() > 0.995


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_maps_without_contrast_do_not_fail(tmp_path, value):
    file = write(tmp_path / "map.nii.gz", np.full(SHAPE, value))
    backdrop = make_backdrop(write(tmp_path / "mask.nii.gz", np.ones(SHAPE)))
    drawn = [
        draw_surface(file),
        draw_glass(file, threshold=0.5),
        draw_mosaic(file, backdrop),
        draw_glass(file, n_top=10),
    ]
    empty = not np.isfinite(value) or value == 0
    assert [each is None for each in drawn] == [empty] * 4


def test_maps_of_other_spaces(tmp_path):
    """No template where there is none; the mosaic needs none."""
    affine = np.diag([3.0, 3, 3.3, 1])
    values = gaussian_filter(np.random.default_rng(1).normal(size=(64, 64, 35)), 2)
    file = write(tmp_path / "map.nii.gz", values, affine)
    assert draw_surface(file) is None
    assert draw_glass(file, n_top=50) is None
    mask = write(tmp_path / "mask.nii.gz", np.ones(values.shape), affine)
    mosaic = draw_mosaic(file, make_backdrop(mask))
    assert len(red_columns(mosaic)) > 100  # the map's highest values are there
    named = write(tmp_path / "named.nii.gz", blob())
    assert draw_surface(named, space="T1w") is None


def test_scale_end_does_not_hide_a_large_value():
    values = np.linspace(-1, 1, 2001)
    assert scale_end(values) == 1
    assert scale_end(np.append(values, 50)) < 1.1


# The figure that turns


def some_points():
    rows = [("joy", -40.04, 0, 0, 0.5), ("joy", 40, 0, 0, 0.4), ("fear", 40, 0, 0, 0.3)]
    rows.append(("fear", np.nan, 0, 0, 0.1))
    return pd.DataFrame(rows, columns=["class", "x_mm", "y_mm", "z_mm", "drop"])


def sphere():
    directions = np.random.default_rng(0).normal(size=(200, 3))
    return 80 * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def data_of(block):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', block, re.S)[1])


def test_data_of_the_figure(no_network):
    block = scatter_block(
        some_points(), classes=["joy", "fear", "none"], outline_mm=sphere(), ident="s"
    )
    data = data_of(block)
    assert [each["xyz"] for each in data["classes"]] == [[-40, 0, 0, 40, 0, 0], [40, 0, 0], []]
    assert len(data["outline"]) == 600
    numbers = np.array(data["outline"])
    np.testing.assert_array_equal(numbers, numbers.round(1))
    assert block.count("data-class=") == 3
    assert "drop .400 to .500" in block
    assert not re.search(r"\son\w+=", block)  # no inline handlers: the policy forbids them
    assert not re.search(r"https?://|//cdn", block + scatter_script())


def test_nothing_ends_the_data_early():
    nasty = ["</script><script>alert(1)</script>", "<!--<script>", "a & b", "\u2028"]
    text = safe_json(nasty)
    assert not re.search("[<>&\u2028]", text)
    assert json.loads(text) == nasty
    points = some_points().replace("joy", '<b>"joy"\'</b></script>')
    block = scatter_block(
        points, classes=sorted(set(points["class"])), outline_mm=[], ident='"><i>'
    )
    assert "<b>" not in block
    assert "<i>" not in block
    assert block.count("</script>") == 1


def test_the_hash_is_that_of_the_script_in_the_page():
    script = scatter_script()
    inside = re.fullmatch(r"<script>(.*)</script>", script, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert script_hash() == f"'sha256-{digest}'"
    assert "</script" not in inside
    assert "<!--" not in inside
    assert inside.count("\n") < 200


def test_jitter_is_off_unless_asked():
    kwargs = {"classes": ["joy", "fear"], "outline_mm": sphere(), "ident": "s"}
    still = data_of(scatter_block(some_points(), **kwargs))["classes"]
    moved = data_of(scatter_block(some_points(), jitter_mm=2.0, **kwargs))["classes"]
    off = np.array(moved[0]["xyz"]) - still[0]["xyz"]
    assert 0 < np.abs(off).max() <= 2.05


def test_points_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="no column drop"):
        scatter_block(some_points().drop(columns="drop"), classes=["joy"], outline_mm=[], ident="s")
    with pytest.raises(InputError, match="class fear"):
        scatter_block(some_points(), classes=["joy"], outline_mm=[], ident="s")


def test_a_figure_without_points(no_network):
    empty = some_points().iloc[:0]
    block = scatter_block(empty, classes=["joy"], outline_mm=np.empty((0, 3)), ident="s")
    assert data_of(block)["radius"] > 0


def test_outline_lies_on_the_surface(tmp_path, no_network):
    """On a ball that is no MNI brain; in MNI space it is the whole brain, whatever the mask."""
    affine = np.diag([2.0, 2, 2, 1])
    radius = np.linalg.norm(mm_of((50, 50, 50), affine) - 49, axis=-1)
    outline = outline_of(write(tmp_path / "ball.nii.gz", radius < 40, affine), n_points=300)
    assert 100 < len(outline) < 800
    assert np.abs(np.linalg.norm(outline - 49, axis=1) - 38.5).max() < 2.5
    whole = outline_of(write(tmp_path / "region.nii.gz", blob() > 0))
    assert (np.ptp(whole, axis=0) > (120, 150, 110)).all()
    assert len(outline_of(write(tmp_path / "none.nii.gz", np.zeros((5, 5, 5)), affine))) == 0


STAGE = """
const drawn = [], listeners = {}, dataset = DATA;
const pen = new Proxy({}, {
  get: (t, name) => name in t ? t[name] : (...a) => drawn.push([name, ...a, t.fillStyle]),
  set: (t, name, value) => { t[name] = value; return true; } });
function part(extra) {
  const own = {};
  return Object.assign({ style: {}, dataset: {}, hidden: true, disabled: true, own,
    setAttribute(name, value) { own[name] = value; },
    addEventListener(kind, call) { own[kind] = call; } }, extra);
}
const canvas = part({ getContext: () => pen, clientWidth: 600, clientHeight: 400 });
const toggles = dataset.classes.map(() => part({}));
const behind = part({ dataset: { view: "behind" } });
const still = part({ hidden: false }), live = part({});
const figure = {
  querySelector: (what) => what === "canvas" ? canvas : { textContent: JSON.stringify(dataset) },
  querySelectorAll: (what) => ({ "button[data-class]": toggles, "[data-live]": [live],
    "[data-still]": [still], button: [...toggles, behind] })[what] };
const requestAnimationFrame = (call) => { call(); return 0; };
globalThis.window = { requestAnimationFrame, addEventListener() {} };
globalThis.document = { querySelectorAll: () => [figure], activeElement: null };
function take() {
  const now = drawn.splice(0), letters = {};
  for (const [name, ...a] of now) if (name === "fillText") letters[a[0]] = [a[1], a[2]];
  return { letters, discs: now.filter((d) => d[0] === "arc") };
}
require("node:vm").runInThisContext(SCRIPT);
const out = { start: take(), still: still.hidden, live: !live.hidden, disabled: behind.disabled };
behind.own.click();
out.behind = take();
toggles[0].own.click();
out.without = take();
const press = (key) => canvas.own.keydown({ key, preventDefault() {} });
press("ArrowRight");
out.turned = take();
press("Home"); take(); press("+");
out.zoomed = take();
console.log(JSON.stringify(out));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_draws_left_at_the_left(no_network, monkeypatch):
    monkeypatch.undo()  # the data are made without network; node is a process of its own
    block = scatter_block(some_points(), classes=["joy", "fear"], outline_mm=sphere(), ident="s")
    script = scatter_script().removeprefix("<script>").removesuffix("</script>")
    stage = STAGE.replace("DATA", json.dumps(data_of(block)))
    stage = stage.replace("SCRIPT", json.dumps(script))
    done = subprocess.run(
        ["node", "-e", stage], capture_output=True, text=True, timeout=60, check=True
    )
    out = json.loads(done.stdout)
    assert out["still"]
    assert out["live"]
    assert not out["disabled"]
    for view in ("start", "behind"):
        letters = out[view]["letters"]
        assert letters["L"][0] < 300 < letters["R"][0]
        assert letters["S"][1] < 200 < letters["I"][1]
        assert "A" not in letters or view == "start"
    discs = out["behind"]["discs"]
    assert len(discs) == 3
    assert sorted(round(disc[1] - 300) > 0 for disc in discs) == [False, True, True]
    shared = [disc[3] for disc in discs if disc[1] > 300]
    assert shared[1] == pytest.approx(shared[0] / 2)  # the second class lies inside the first
    assert len(out["without"]["discs"]) == 1
    assert out["without"]["discs"][0][3] == pytest.approx(shared[0])  # alone, so it is whole
    assert out["turned"]["discs"][0][1] != out["without"]["discs"][0][1]
    apart = [
        view["letters"]["R"][0] - view["letters"]["L"][0] for view in (out["start"], out["zoomed"])
    ]
    assert apart[1] > 1.15 * apart[0]
