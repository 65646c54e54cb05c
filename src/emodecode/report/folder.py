"""The results folder of `emodecode evaluate`, read and checked as a whole."""

import json
import tomllib
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.samples import read_table

REQUIRED = (
    "study.toml",
    "samples.tsv",
    "predictions.tsv",
    "scores.json",
    "audit.json",
    "provenance.json",
    "splits.json",
)
PREDICTION_COLUMNS = ("model", "fold", "subject", "run", "volume", "label", "predicted")
VERDICTS = ("clean", "caution", "leak")
PUBLISHED = "as-published"
REMEDY = "Run `emodecode evaluate` again; it writes the folder anew."


@dataclass(frozen=True, eq=False)
class ResultsFolder:
    """Everything that `emodecode evaluate` wrote, in memory except the images.

    Parameters
    ----------
    path : Path
    study, scores, audit, provenance : dict
        The files of these names; the study as plain values.
    samples, predictions : DataFrame
    mask : Path, optional
        ``None`` for tables of features.
    maps : tuple of dict
        Entries of ``provenance.json``: ``model class kind file top``.
    timeline : DataFrame, optional
        ``labels-timeline.tsv``: ``time_s label agreement`` of the stimulus.
    published : ResultsFolder, optional
        The results of the same study in its published form, in the folder ``as-published``.
    """

    path: Path
    study: dict[str, Any] = field(repr=False)
    scores: dict[str, Any] = field(repr=False)
    audit: dict[str, Any] = field(repr=False)
    provenance: dict[str, Any] = field(repr=False)
    samples: pd.DataFrame = field(repr=False)
    predictions: pd.DataFrame = field(repr=False)
    mask: Path | None = None
    maps: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    timeline: pd.DataFrame | None = field(default=None, repr=False)
    published: "ResultsFolder | None" = field(default=None, repr=False)

    @property
    def classes(self) -> list[str]:
        """Sorted classes."""
        return list(self.scores["classes"])

    @property
    def models(self) -> list[str]:
        """Models in the order of the study."""
        return list(self.scores["models"])

    @property
    def verdict(self) -> str:
        """``clean``, ``caution`` or ``leak``."""
        return self.audit["verdict"]


def read_folder(path: Path) -> ResultsFolder:
    """Read a results folder and check that its files belong together.

    Raises
    ------
    DataMissingError
        A file is not there.
    InputError
        A file is truncated, or does not belong to the others.
    """
    for name in REQUIRED:
        if not (path / name).is_file():
            raise _missing(path, name)
    study = _read_toml(path / "study.toml")
    scores, audit, provenance, _ = (
        _read_json(path / f"{name}.json") for name in ("scores", "audit", "provenance", "splits")
    )
    _require(path / "scores.json", scores, "classes", "models", "split")
    _require(path / "audit.json", audit, "verdict", "findings")
    _require(path / "provenance.json", provenance, "emodecode", "data")
    if audit["verdict"] not in VERDICTS:
        raise _wrong(
            path / "audit.json",
            f"the verdict {audit['verdict']!r}",
            f"one of {', '.join(VERDICTS)}",
        )
    samples = _read_tsv(path / "samples.tsv", ("subject", "run", "label"))
    predictions = _read_tsv(path / "predictions.tsv", PREDICTION_COLUMNS)
    _check_predictions(path, scores, samples, predictions)
    mask = path / "mask.nii.gz"
    timeline = path / "labels-timeline.tsv"
    return ResultsFolder(
        path=path,
        study=study,
        scores=scores,
        audit=audit,
        provenance=provenance,
        samples=samples,
        predictions=predictions,
        mask=mask if mask.is_file() else None,
        maps=_find_maps(path, provenance),
        timeline=_read_tsv(timeline, ("time_s", "label")) if timeline.is_file() else None,
        published=read_folder(path / PUBLISHED) if (path / PUBLISHED).is_dir() else None,
    )


def load_image(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (x, y, z) and the affine of a 3-D image in RAS+ order."""
    import nibabel as nib

    try:
        image = nib.as_closest_canonical(nib.load(path))
        values = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise _wrong(path, f"not readable ({error})", "a complete NIfTI image") from error
    if values.ndim != 3:
        raise _wrong(path, f"an image of shape {values.shape}", "a 3-D image")
    return values, np.asarray(image.affine)


def _find_maps(path: Path, provenance: dict) -> tuple[dict, ...]:
    maps = tuple(provenance.get("maps") or ())
    for entry in maps:
        _require(path / "provenance.json", entry, "model", "class", "kind", "file")
        if not (path / entry["file"]).is_file():
            raise _missing(path, entry["file"])
    return maps


def _check_predictions(
    path: Path, scores: dict, samples: pd.DataFrame, predictions: pd.DataFrame
) -> None:
    classes, file = scores["classes"], path / "predictions.tsv"
    columns = [f"p_{name}" for name in classes]
    given = [str(name) for name in predictions if str(name).startswith("p_")]
    if given != columns:
        raise _wrong(
            file,
            f"the probabilities {', '.join(given) or 'none'}",
            f"{', '.join(columns)} (the classes of scores.json)",
        )
    broken = ~np.isfinite(predictions[columns].to_numpy(dtype=float)).all(axis=1)
    broken |= ~(predictions["label"].isin(classes) & predictions["predicted"].isin(classes))
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise _wrong(
            file,
            f"{int(broken.sum())} of {len(broken)} rows are incomplete (first: line {row + 2})",
            "a label, a prediction and a probability per class in every row",
        )
    strangers = set(predictions["subject"]) - set(samples["subject"])
    if strangers:
        raise _wrong(
            file,
            f"subject {min(strangers)}, who is not in samples.tsv",
            "the subjects of samples.tsv",
        )
    if set(predictions["model"]) != set(scores["models"]):
        raise _wrong(
            file,
            f"the models {', '.join(sorted(set(predictions['model'])))}",
            f"those of scores.json: {', '.join(sorted(scores['models']))}",
        )
    for model, own in predictions.groupby("model"):
        confusion = scores["models"][model].get("confusion")
        counted = pd.crosstab(own["label"], own["predicted"]).reindex(
            index=classes, columns=classes, fill_value=0
        )
        if confusion is not None and not np.array_equal(confusion, counted.to_numpy()):
            raise _wrong(
                file,
                f"{len(own)} predictions of {model} that give another confusion matrix than "
                f"scores.json ({int(np.sum(confusion))} predictions)",
                "predictions and scores of the same evaluation",
            )


def _read_tsv(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = read_table(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise _wrong(path, f"not readable ({error})", "a table in TSV") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise _wrong(path, f"no column {', '.join(missing)}", f"the columns {', '.join(columns)}")
    if table.empty:
        raise _wrong(path, "no rows", "one row a sample")
    return table


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _wrong(path, f"not valid JSON ({error})", "a complete JSON file") from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _wrong(path, f"not valid TOML ({error})", "a complete TOML file") from error


def _require(path: Path, values: Any, *keys: str) -> None:
    if not isinstance(values, dict):
        raise _wrong(path, f"a {type(values).__name__}", "an object with named values")
    missing = [key for key in keys if key not in values]
    if missing:
        raise _wrong(path, f"no {', '.join(missing)}", f"the keys {', '.join(keys)}")


def _missing(path: Path, name: str) -> DataMissingError:
    return DataMissingError(
        str(path / name),
        found="no such file",
        expected="a complete folder written by `emodecode evaluate`",
        remedy=f"Check the path. {REMEDY}",
    )


def _wrong(path: Path, found: str, expected: str) -> InputError:
    return InputError(str(path), found=found, expected=expected, remedy=REMEDY)
