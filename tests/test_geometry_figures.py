"""Pictures of the geometry: colours that hold every value, equal aspect, reasons where refused."""

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.explain.affect import fit_overlay, fit_procrustes
from emodecode.report import embedding_figures, wording
from emodecode.report.drawing import class_colours, drawn_style, new_figure
from emodecode.report.geometry import describe_geometry
from emodecode.report.page import environment, style
from emodecode.report.similarity import _draw_matrix, colour_limits, describe_similarity, draw_rdms
from emodecode.samples import write_table

CLASSES = ("anger", "fear", "happiness", "love", "sadness")
STABLE = {"overlap_seeds": 0.71, "overlap_bootstrap": 0.55, "overlap_null": 0.2}
REASON = "Fewer units than neighbours: 12 of 30"


def _rdm(rng, n: int, *, low: float = 0.2, high: float = 1.7) -> list[list[float]]:
    half = np.triu(rng.uniform(low, high, (n, n)), k=1)
    return (half + half.T).tolist()


def _embedded(file: str, rng, classes, n: int, columns: dict[str, np.ndarray]) -> pd.DataFrame:
    own = np.array(classes)[np.arange(n) % len(classes)]
    place = rng.normal(0, 4, (len(classes), 2))[np.arange(n) % len(classes)]
    cloud = place + rng.normal(0, 1, (n, 2))
    key = "class" if "spatial" in file else "strongest"
    numbers = {"umap_1": cloud[:, 0], "umap_2": cloud[:, 1]}
    pca = {"pca_1": 9 * cloud[:, 1] + 20, "pca_2": 3 * cloud[:, 0]}
    return pd.DataFrame({key: own} | columns | numbers | pca)


def _affect(table: pd.DataFrame, classes) -> dict:
    aims = np.array([[math.cos(a), math.sin(a)] for a in np.linspace(0, 5, len(classes))]) * 0.7
    middle = table.groupby("strongest")[["umap_1", "umap_2"]].mean().loc[list(classes)]
    found = fit_overlay(middle.to_numpy(), aims)
    back = fit_procrustes(aims, middle.to_numpy())
    valence, arousal = back.rotation * back.scale
    return {
        "r2": 1 - found.disparity, "p": 0.175, "p_smallest": 1 / 120, "exact": True,
        "classes": list(classes), "affect": aims.tolist(),
        "centroids": middle.to_numpy().tolist(), "fitted": back.apply(aims).tolist(),
        "valence_axis": valence.tolist(), "arousal_axis": arousal.tolist(),
        "sentence": "Procrustes disparity .54, p = .175 over all 120 relabellings",
    }  # fmt: skip


def _similarity(rng, classes) -> dict:
    n = len(classes)
    crossnobis = np.array(_rdm(rng, n, low=-3e-4, high=9e-4)).tolist()
    rdms = [
        ("brain mean", "brain", "", "crossnobis", crossnobis),
        ("brain mean, 1 - r", "brain", "", "1 - r", _rdm(rng, n)),
        ("category", "model", "", "0 or 1", (1 - np.eye(n)).tolist()),
        ("valence and arousal", "model", "", "Euclidean", _rdm(rng, n, high=2.4)),
        ("cnn: layer 3", "layer", "cnn", "1 - r", _rdm(rng, n, high=1.1)),
        ("cnn: penultimate", "layer", "cnn", "1 - r", _rdm(rng, n)),
    ]
    keys = ("name", "kind", "of", "distance", "values")
    rows = [("category", 0.31), ("valence and arousal", 0.12), ("cnn: penultimate", -0.21)]
    pairs = [("category", "brain mean"), ("cnn: penultimate", "brain mean, 1 - r")]
    return {
        "conditions": list(classes),
        "rdms": [dict(zip(keys, rdm, strict=True)) | {"sentence": ""} for rdm in rdms],
        "per_subject": "geometry/rdms.npz",
        "ceiling": {"lower": 0.38, "upper": 0.55, "p": 0.004, "sentence": "Subjects agree."},
        "comparison": [
            {"model": name, "r": r, "low": r - 0.15, "high": r + 0.12, "p": 0.02, "p_holm": 0.06,
             "share_of_ceiling": r / 0.38}
            for name, r in rows
        ],
        "mantel": [
            {"one": one, "other": other, "r": -0.46, "p": 0.3, "p_smallest": 1 / 60,
             "n_relabellings": 120, "exact": True, "sentence": "r = -.46, p = .300"}
            for one, other in pairs
        ],
        "sentence": "Models against 12 subjects.",
    }  # fmt: skip


def write_geometry(
    folder: Path, *, classes=CLASSES, models=("cnn",), n_voxels: int = 2500, n_units: int = 400
) -> dict:
    """Write ``geometry.json`` and its tables as `emodecode explain` does; return the former."""
    rng = np.random.default_rng(1)
    (folder / "geometry").mkdir(parents=True, exist_ok=True)
    told: dict = {"models": {}, "rsa": _similarity(rng, classes)}
    for name in models:
        told["models"][name] = parts = {}
        for kind, n in (("spatial", n_voxels), ("functional", n_units)):
            file = f"geometry/{kind}-{name}.tsv"
            columns = {f"drop_{each}": rng.normal(size=n) for each in classes}
            if kind == "spatial":
                columns = {f"{axis}_mm": rng.normal(0, 30, n) for axis in "xyz"}
            table = _embedded(file, rng, classes, n, columns)
            write_table(table, folder / file)
            parts[kind] = {
                "file": file,
                "n_points": n,
                "pca_explained": [0.66, 0.278],
                "umap": STABLE | {"sentence": "UMAP keeps 71 % of its neighbours over seeds"},
                "pca": STABLE | {"overlap_seeds": 1.0, "sentence": ""},
                "clusters": {"n": 4, "null_low": 2, "null_high": 6, "p": 0.42, "sentence": "Four."},
            }
        parts["functional"]["own_class"] = False
        parts["affect"] = _affect(table, classes)
    _save(folder, told)
    return told


def _save(folder: Path, told: dict) -> None:
    (folder / "geometry.json").write_text(json.dumps(told), encoding="utf-8")


def render(folder: Path, *, leaks: bool = False) -> str:
    """Return a page that holds only the sections of the geometry."""
    source = (
        '{% from "geometry.html" import geometry, similarity with context %}<!DOCTYPE html>'
        '<html lang="en"><meta charset="utf-8"><style>{{ style | safe }}</style><body>'
        "{% if told %}{{ geometry(told) }}{{ similarity(told) }}{% endif %}</body></html>"
    )
    template = environment().from_string(source)
    return template.render(
        told=describe_geometry(folder), leaks=leaks, style=style(), wording=wording
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("explained")
    write_geometry(path)
    return path


@pytest.fixture(scope="module")
def page(folder) -> str:
    return render(folder)


@pytest.fixture
def figures(monkeypatch) -> list:
    """Keep every figure of the embeddings that is drawn."""
    kept: list = []
    made = embedding_figures._picture

    def keep(figure, dots, *, name, alt):
        kept.append(figure)
        return made(figure, dots, name=name, alt=alt)

    monkeypatch.setattr(embedding_figures, "_picture", keep)
    return kept


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ([[0, 1.7], [1.7, 0]], (0, 1.7)),
        ([[0, 0.3], [0.3, 0]], (0, 0.3)),
        ([[0, -0.2], [-0.2, 0]], (-0.2, 0.2)),
        ([[0, -3.0, 1], [-3.0, 0, 2], [1, 2, 0]], (-3, 3)),
        ([[0, np.nan, 1.2], [np.nan, 0, 0.4], [1.2, 0.4, 0]], (0, 1.2)),
        ([[0, 0], [0, 0]], (0, 1)),
        ([[np.nan, np.nan], [np.nan, np.nan]], (0, 1)),
    ],
)
def test_colour_limits(values, limits):
    assert colour_limits(np.array(values)) == limits


def test_no_colour_clips(folder):
    """S1 drew 1 - r from 0 to 1; the limits that are drawn with hold every value of every RDM."""
    rdms = [
        rdm for group in describe_geometry(folder)["similarity"]["groups"] for rdm in group["rdms"]
    ]
    assert len(rdms) == 6
    assert any(rdm["values"].max() > 1 for rdm in rdms)
    assert any(rdm["values"].min() < 0 for rdm in rdms)
    for rdm in rdms:
        with drawn_style():
            image = _draw_matrix(new_figure(200, 200).add_axes((0, 0, 1, 1)), rdm, 36)
        low, high = image.get_clim()
        assert (low, high) == rdm["limits"]
        assert low <= rdm["values"].min() <= rdm["values"].max() <= high
        assert low == (-high if rdm["values"].min() < 0 else 0)
        own = np.unique(rdm["values"])
        shades = {tuple(shade) for shade in image.cmap(image.norm(own), bytes=True)}
        assert len(shades) > 0.8 * len(own), "values above a limit would share one colour"


def test_values_are_printed_up_to_eight_conditions():
    rng = np.random.default_rng(0)
    drawings = {}
    for n in (8, 9):
        names = [f"c{k}" for k in range(n)]
        rdm = {"name": "r", "kind": "model", "of": "", "distance": "1 - r", "values": _rdm(rng, n)}
        groups = describe_similarity({"conditions": names, "rdms": [rdm]})["groups"]
        drawings[n] = re.findall(r">(\d?\.\d\d)<", groups[0]["svg"])
    assert len(drawings[8]) == 8 * 7 + 2
    assert len(drawings[9]) == 2, "only the colour bar has numbers"


def test_small_distances_are_printed_with_their_power(folder):
    told = json.loads((folder / "geometry.json").read_text())["rsa"]
    svg = describe_similarity(told)["groups"][0]["svg"]
    largest = np.max(told["rdms"][0]["values"])
    assert "crossnobis (×10⁻⁴)" in svg
    assert svg.count(f">{largest * 1e4:.2f}<") == 3, "two cells and the colour bar"


def test_matrices_keep_the_order_of_conditions():
    values = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], dtype=float)
    rdm = {"name": "r", "distance": "d", "values": values, "limits": (0, 3), "power": 0, "alt": ""}
    svg = draw_rdms([rdm], ["b", "a", "c"], name="x")
    assert re.findall(r">([abc])<", svg) == ["b", "a", "c"] * 2
    assert re.findall(r">(\d\.00)<", svg)[:6] == ["1.00", "2.00", "1.00", "3.00", "2.00", "3.00"]


def test_ceiling_is_drawn_only_where_there_is_one(folder):
    told = json.loads((folder / "geometry.json").read_text())["rsa"]
    assert "noise ceiling" in describe_similarity(told)["chart"]
    for ceiling in ({"refused": "one subject"}, None, {"lower": 0.2, "upper": None, "p": None}):
        assert "noise ceiling" not in describe_similarity(told | {"ceiling": ceiling})["chart"]


def test_both_panels_have_equal_aspect_and_hold_all_points(folder, figures):
    describe_geometry(folder)
    assert len(figures) == 3
    for figure in figures[:2]:
        for axes in figure.axes:
            wide, high = np.ptp(axes.get_xlim()), np.ptp(axes.get_ylim())
            box = axes.get_window_extent()
            assert wide / box.width == pytest.approx(high / box.height)
            points = axes.collections[0].get_offsets()
            assert axes.get_xlim()[0] < points[:, 0].min() < points[:, 0].max() < axes.get_xlim()[1]
            assert axes.get_ylim()[0] < points[:, 1].min() < points[:, 1].max() < axes.get_ylim()[1]
        umap, pca = figure.axes
        assert not len(umap.get_xticks())
        assert not len(umap.get_yticks())
        assert len(pca.get_xticks())
        assert "component 1" in pca.get_xlabel()


def test_points_have_the_colours_of_their_classes(folder, figures):
    from matplotlib.colors import to_hex

    table = pd.read_csv(folder / "geometry/functional-cnn.tsv", sep="\t")
    describe_geometry(folder)
    drawn_points = figures[1].axes[0].collections[0]
    inks = [to_hex(ink[:3]) for ink in drawn_points.get_facecolors()]
    expected = class_colours(CLASSES)
    own = dict(zip(table["umap_1"].round(9), table["strongest"], strict=True))
    places = np.round(np.asarray(drawn_points.get_offsets())[:, 0], 9)
    assert [expected[own[x]] for x in places] == inks
    assert own[places[0]] != own[places[1]] or own[places[1]] != own[places[2]], "order is mixed"


def test_arrows_follow_the_fitted_axes(folder, figures):
    told = json.loads((folder / "geometry.json").read_text())["models"]["cnn"]["affect"]
    describe_geometry(folder)
    axes, plane = figures[2].axes
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 2
    for arrow, key in zip(arrows, ("valence_axis", "arousal_axis"), strict=True):
        way = np.array(arrow.xy) - np.array(arrow.xyann)
        assert way / np.linalg.norm(way) == pytest.approx(told[key] / np.linalg.norm(told[key]))
    lines = np.array([line.get_xydata() for line in plane.lines if len(line.get_xdata()) == 2][2:])
    aims = np.array(told["affect"])
    assert lines[:, 0] == pytest.approx(aims)
    left = np.sum((lines[:, 1] - aims) ** 2) / np.sum((aims - aims.mean(axis=0)) ** 2)
    assert left == pytest.approx(1 - told["r2"]), "lines are what the printed r2 leaves over"
    assert "p = .175 (smallest attainable .008)" in figures[2].texts[0].get_text()


def test_axes_of_no_length_have_no_arrow(tmp_path, figures):
    told = write_geometry(tmp_path, n_voxels=50, n_units=60)
    told["models"]["cnn"]["affect"] |= {"valence_axis": [0, 0], "arousal_axis": None, "p": None}
    _save(tmp_path, told)
    describe_geometry(tmp_path)
    texts = figures[2].axes[0].texts
    assert not [text for text in texts if getattr(text, "arrow_patch", None) is not None]


def test_many_dots_become_an_image_with_an_alt(folder, page):
    model = describe_geometry(folder)["models"][0]
    picture = model["spatial"]["picture"]
    assert picture["svg"] is None
    assert picture["png"].startswith("data:image/png;base64,")
    assert "anger 500" in picture["alt"]
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture["png"].split(",")[1])))
    assert image.width >= 1.7 * picture["width"]
    assert len(picture["png"]) < 90_000, "ten decoders must fit into a page"
    assert model["affect"]["picture"]["png"] is None
    assert page.count("<img") == len(re.findall(r'<img [^>]*alt="[^"]{30,}"', page)) > 0
    assert page.count("<svg") == len(re.findall(r'<svg [^>]*aria-label="[^"]{30,}"', page)) > 0


def test_page_is_whole(page):
    assert page.count('class="legend"') == 1
    assert "re-draws geometry" in page
    assert "−.46" in page
    assert "all 120" in page
    assert ".017" in page
    assert "independent pairs" not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "None" not in page
    assert "nan" not in page
    assert "leaks" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_leaks_are_marked(folder):
    assert render(folder, leaks=True).count("leaks: see audit") > 20


def test_pearson_p_of_the_published_form_is_called_wrong(folder, tmp_path):
    told = json.loads((folder / "geometry.json").read_text())
    told["rsa"]["mantel"][0]["pearson_p"] = 0.073
    _save(tmp_path, {"models": {}, "rsa": told["rsa"]})
    page = render(tmp_path)
    assert "assumes 10 independent pairs; wrong" in page
    assert ".073" in page


def test_reasons_stand_where_something_was_refused(tmp_path):
    told = write_geometry(tmp_path, models=("cnn", "ridge"), n_voxels=50, n_units=60)
    reasons = [f"{REASON} ({k})" for k in range(5)]
    spatial, functional, affect, ceiling, mantel = ({"refused": each} for each in reasons)
    told["models"]["ridge"] = {"spatial": spatial, "functional": functional, "affect": affect}
    told["rsa"]["ceiling"] = ceiling
    told["rsa"]["mantel"][1] = {"one": "category", "other": "brain mean"} | mantel
    _save(tmp_path, told)
    page = render(tmp_path)
    assert all(page.count(f"{reason}.") == 1 for reason in reasons)
    assert [m["spatial"]["refused"] for m in describe_geometry(tmp_path)["models"]] == [
        None,
        reasons[0] + ".",
    ]
    _save(tmp_path, told | {"rsa": {"refused": "two classes"}})
    assert "Two classes." in render(tmp_path)


def test_what_is_not_defined_is_said_so(tmp_path, figures):
    told = write_geometry(tmp_path, n_voxels=40, n_units=40)
    parts = told["models"]["cnn"]
    for kind in ("spatial", "functional"):
        path = tmp_path / parts[kind]["file"]
        write_table(pd.read_csv(path, sep="\t").assign(umap_1=np.nan, umap_2=np.nan), path)
        parts[kind] |= {"umap": {"refused": REASON}, "pca": dict.fromkeys(STABLE), "clusters": None}
        parts[kind]["pca_explained"] = None
    parts["affect"] |= {"p": None, "p_smallest": None, "r2": None}
    told["rsa"]["comparison"][0] |= dict.fromkeys(("r", "low", "high", "p", "p_holm"))
    told["rsa"]["comparison"][1]["share_of_ceiling"] = None
    told["rsa"]["rdms"][1]["values"][0][1] = None
    told["rsa"]["mantel"][0] |= {"r": None, "p": None}
    _save(tmp_path, told)
    page = render(tmp_path)
    assert f"UMAP: {REASON}." in page
    assert [axes.texts[0].get_text() for axes in (figure.axes[0] for figure in figures)] == [
        "not defined"
    ] * 3
    assert "None" not in page
    assert "nan" not in page
    assert "r² = n/a, p n/a" in page


def test_names_are_escaped(tmp_path):
    write_geometry(tmp_path, classes=("a<b", "c&d", 'e"f'), n_voxels=900, n_units=40)
    page = render(tmp_path)
    assert "a<b" not in page
    assert "c&d" not in page
    assert re.search(r'alt="[^"]*a&lt;b 300, c&amp;d 300, e&#34;f 300', page)


def test_colours_are_those_of_the_rest_of_the_page(tmp_path):
    write_geometry(tmp_path, n_voxels=40, n_units=40)
    order = list(reversed(CLASSES))
    (tmp_path / "explanation.json").write_text(json.dumps({"classes": order}))
    assert describe_geometry(tmp_path)["classes"] == class_colours(order)


def test_nothing_without_the_file(tmp_path):
    assert describe_geometry(tmp_path) is None
    assert "<section" not in render(tmp_path)
    _save(tmp_path, {"models": {}, "rsa": None})
    assert describe_geometry(tmp_path)["similarity"] is None
    render(tmp_path)


def test_broken_folders_are_refused(tmp_path):
    told = write_geometry(tmp_path, n_voxels=40, n_units=40)
    table = tmp_path / told["models"]["cnn"]["spatial"]["file"]
    write_table(pd.read_csv(table, sep="\t").drop(columns="pca_2"), table)
    with pytest.raises(InputError, match="no column pca_2"):
        describe_geometry(tmp_path)
    table.unlink()
    with pytest.raises(DataMissingError, match=r"spatial-cnn\.tsv"):
        describe_geometry(tmp_path)
    (tmp_path / "geometry.json").write_text('{"models": {')
    with pytest.raises(InputError, match="not valid JSON"):
        describe_geometry(tmp_path)
