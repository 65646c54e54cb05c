"""The geometry of the drops on the page: embeddings beside PCA, and valence and arousal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.explain.affect import fit_procrustes
from emodecode.report.drawing import class_colours
from emodecode.report.embedding_figures import affect_title, draw_affect, draw_embedding
from emodecode.report.similarity import describe_similarity
from emodecode.report.wording import as_sentence, count_of, format_number, format_p
from emodecode.samples import parse_table

GEOMETRY = "geometry.json"
REMEDY = "Run `emodecode explain` again."
_SPREADS = ("overlap_seeds", "overlap_bootstrap", "overlap_null")
_METHODS = {"umap": "UMAP", "pca": "PCA"}


def describe_geometry(folder: Path) -> dict[str, Any] | None:
    """Gather what the page says about the geometry, pictures included; None without the file.

    Parameters
    ----------
    folder : Path
        Of `emodecode explain`, with ``geometry.json`` and the tables that it names.

    Returns
    -------
    dict or None
        ``classes`` (class -> colour), ``models`` (``name spatial functional affect`` each; a part
        that could not be made holds only ``refused``, one that was not made is None) and
        ``similarity`` (:func:`emodecode.report.similarity.describe_similarity`).

    Raises
    ------
    DataMissingError
        A table is not there.
    InputError
        A file is truncated or has other columns.
    """
    path = folder / GEOMETRY
    if not path.is_file():
        return None
    found = _read_json(path)
    models: dict[str, dict] = found.get("models") or {}
    tables = {
        (name, kind): _read_places(folder, parts.get(kind), column)
        for name, parts in models.items()
        for kind, column in (("spatial", "class"), ("functional", "strongest"))
    }
    colours = class_colours(_classes(folder, found, tables))
    described = []
    for index, (name, parts) in enumerate(models.items()):
        one: dict[str, Any] = {"name": name}
        for kind in ("spatial", "functional"):
            table = tables[name, kind]
            one[kind] = _describe_embedding(parts.get(kind), table, colours, (kind, name, index))
        units = tables[name, "functional"]
        one["affect"] = _describe_affect(parts.get("affect"), units, colours, (name, index))
        described.append(one)
    return {
        "classes": colours,
        "models": described,
        "similarity": describe_similarity(found.get("rsa")),
    }


def _describe_embedding(
    part: dict[str, Any] | None,
    table: pd.DataFrame | None,
    colours: dict[str, str],
    which: tuple[str, str, int],
) -> dict[str, Any] | None:
    kind, model, index = which
    if part is None or table is None:
        return _refusal(part)
    what = "voxels" if kind == "spatial" else "units"
    n_points = part.get("n_points") or len(table)
    alt = (
        f"{kind.capitalize()} embedding of {model}: {n_points} {what}, UMAP on the left, PCA on "
        f"the right, coloured by class ({_say_counts(table['class'])})"
    )
    picture = draw_embedding(
        table,
        colours,
        explained=part.get("pca_explained"),
        unit="mm" if kind == "spatial" else "drop",
        name=f"{kind}{index}",
        alt=alt,
    )
    rows, sentences = [], []
    for key, name in _METHODS.items():
        own = part.get(key) or {}
        values = [own.get(spread) for spread in _SPREADS]
        if any(value is not None for value in values):
            rows.append({"name": name, "values": values})
        if text := own.get("refused") or own.get("sentence"):
            sentences.append(as_sentence(text if text.startswith(name) else f"{name}: {text}"))
    clusters = part.get("clusters") or {}
    told = [clusters.get("refused") or clusters.get("sentence"), part.get("sentence")]
    sentences += [as_sentence(text) for text in told if text]
    return {
        "refused": None,
        "file": part["file"],
        "points": count_of(n_points, what[:-1]),
        "picture": picture,
        "rows": rows,
        "clusters": None if told[0] else _describe_clusters(clusters),
        "said": part.get("sentence") is not None,
        "own_class": part.get("own_class"),
        "sentences": list(dict.fromkeys(sentences)),
    }


def _describe_clusters(clusters: dict[str, Any]) -> dict[str, Any] | None:
    if clusters.get("n") is None:
        return None
    low, high = (clusters.get(end) for end in ("null_low", "null_high"))
    chance = "n/a" if low is None or high is None else f"{low:g} to {high:g}"
    return {"n": clusters["n"], "null": chance, "p": format_p(clusters.get("p"))}


def _describe_affect(
    part: dict[str, Any] | None,
    table: pd.DataFrame | None,
    colours: dict[str, str],
    which: tuple[str, int],
) -> dict[str, Any] | None:
    if part is None or part.get("refused"):
        return _refusal(part)
    model, index = which
    part = part | _lay_centroids(part, table)
    laid = [[None, None]] * len(part["classes"]) if part["laid"] is None else part["laid"]
    far = [
        "{} annotated ({}, {}), in the UMAP ({}, {})".format(
            name, *map(format_number, (*aim, *fit))
        )
        for name, aim, fit in zip(part["classes"], part["affect"], laid, strict=True)
    ]
    alt = f"Valence and arousal of {model}, {affect_title(part)}: {'; '.join(far)}"
    return {
        "refused": None,
        "picture": draw_affect(part, table, colours, name=f"affect{index}", alt=alt),
        "sentence": as_sentence(part.get("sentence") or ""),
        "how": "all relabellings of the classes" if part.get("exact") else "random relabellings",
    }


def _lay_centroids(part: dict[str, Any], table: pd.DataFrame | None) -> dict[str, Any]:
    """Return the classes' mean places, and these laid onto valence and arousal.

    The lines from there to the annotations are what the r² of the fit leaves over.
    """
    nothing = {"centroids": None, "laid": None}
    if table is None:
        return nothing
    means = table.groupby("class")[["umap_1", "umap_2"]].mean().reindex(part["classes"])
    middle = means.to_numpy(dtype=float)
    if not np.isfinite(middle).all() or (middle == middle[0]).all():
        return nothing
    aims = np.array(part["affect"], dtype=float)
    return {"centroids": middle, "laid": fit_procrustes(middle, aims).apply(middle)}


def _refusal(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Say why there is no picture; None where nothing was asked for."""
    return None if part is None else {"refused": as_sentence(part["refused"])}


def _say_counts(classes: pd.Series) -> str:
    return ", ".join(f"{name} {n}" for name, n in classes.value_counts().sort_index().items())


def _classes(folder: Path, found: dict[str, Any], tables: dict[Any, Any]) -> list[str]:
    """Return the classes in the order of the rest of the page."""
    told = folder / "explanation.json"
    if told.is_file() and (classes := _read_json(told).get("classes")):
        return list(classes)
    if classes := (found.get("rsa") or {}).get("conditions"):
        return list(classes)
    return sorted({name for t in tables.values() if t is not None for name in t["class"]})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _wrong(path, f"not valid JSON ({error})", "a complete JSON file") from error


def _read_places(folder: Path, part: dict[str, Any] | None, column: str) -> pd.DataFrame | None:
    """Read ``class umap_1 umap_2 pca_1 pca_2`` of each point; None where there is no table."""
    if part is None or part.get("refused"):
        return None
    path = folder / part["file"]
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected=f"the places that {GEOMETRY} names",
            remedy=REMEDY,
        )
    needed = ["umap_1", "umap_2", "pca_1", "pca_2"]
    missing = {name: ["n/a", ""] for name in needed}
    try:
        table = parse_table(path, dtype={column: str}, keep_default_na=False, na_values=missing)
        absent = [name for name in (column, *needed) if name not in table]
        if absent:
            raise ValueError(f"no column {', '.join(absent)}")
        return (
            table[[column, *needed]]
            .rename(columns={column: "class"})
            .astype(dict.fromkeys(needed, float))
        )
    except ValueError as error:
        wanted = f"a table with the columns {', '.join((column, *needed))}"
        raise _wrong(path, f"not readable ({error})", wanted) from error


def _wrong(path: Path, found: str, expected: str) -> InputError:
    return InputError(str(path), found=found, expected=expected, remedy=REMEDY)
