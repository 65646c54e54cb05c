"""Decoder: a fitted pipeline with its mask and contract; what is scored, explained and used live.

The only place where "the same decoder" is defined. On disk it is a folder without pickle.
"""

import datetime
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import sklearn
from nibabel.spatialimages import SpatialImage
from sklearn.pipeline import Pipeline

from emodecode.contract import Contract
from emodecode.errors import InputError, NotCalibratedError
from emodecode.models.steps import asks_for, is_step, transform_step
from emodecode.models.temperature import apply_temperature
from emodecode.read.files import open_image
from emodecode.samples import Samples, moments_of
from emodecode.storage.card import write_card
from emodecode.storage.estimators import load_pipeline, store_pipeline
from emodecode.storage.folder import changed, seal, unseal

CARD, MASK, PARCELS = "CARD.md", "mask.nii.gz", "parcels.nii.gz"


@dataclass(frozen=True, eq=False)
class Decoder:
    """A fitted decoder.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted.
    contract : Contract
        What it takes.
    temperature : float, optional
        The probabilities are scaled by it.
    about : dict
        What its card says beside that, plain values: ``model`` (``name kind params chosen``),
        ``study``, ``data``, ``evaluation``, ``alignment``, ``versions``.
    """

    pipeline: Pipeline = field(repr=False)
    contract: Contract
    temperature: float | None = None
    about: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of the probabilities."""
        return self.contract.classes

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """Subjects that the decoder is adapted to; None if it asks for none."""
        known = [
            set(getattr(step, "maps_", None) or getattr(step, "indices_", {}))
            for _, step in self.pipeline.steps
            if _asks_whose(step)
        ]
        return tuple(sorted(set.intersection(*known))) if known else None

    def predict(
        self,
        X: np.ndarray | Samples | SpatialImage,
        *,
        subject: str | Sequence[str] | None = None,
        moments: np.ndarray | None = None,
        tr_s: float | None = None,
        confounds: str | Path | pd.DataFrame | None = None,
    ) -> np.ndarray:
        """Return the probabilities of the classes.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features), Samples, or 3-D or 4-D image
            Features as in training, or a run that is prepared as the training runs were.
        subject : str, or one for each sample, optional
            Needed by decoders that know their subjects (`subjects`); of `Samples` their own.
        moments : ndarray of int, shape (n_samples, 2), optional
            Run and volume of each row of a matrix, for networks that read windows; without it
            each row stands alone.
        tr_s, confounds
            Of an image, see `emodecode.contract.Contract.open_run`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64

        Raises
        ------
        ContractError
            Data of another shape, affine or TR.
        NotCalibratedError
            A subject that the decoder is not adapted to.
        """
        if isinstance(X, SpatialImage):
            run = self.contract.open_run(X, tr_s=tr_s, confounds=confounds)
            return self._of_run(self.contract.prepare(run), subject)
        if isinstance(X, Samples):
            subject = list(X.subjects) if subject is None else subject
            moments = moments_of(X.table) if moments is None else moments
            X = X.X
        return self._probabilities(X, subject, moments)

    def predict_run(
        self,
        image: str | Path | SpatialImage,
        *,
        subject: str | None = None,
        tr_s: float | None = None,
        confounds: str | Path | pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """Decode every volume of a run.

        Parameters
        ----------
        image, tr_s, confounds
            See `emodecode.contract.Contract.open_run`.
        subject : str, optional
            As in `predict`.

        Returns
        -------
        DataFrame
            ``volume`` (from 0 after the dummies), ``onset_s`` (of the volume, from the first
            volume in the file), ``predicted`` and ``p_CLASS`` for each class.
        """
        run = self.contract.open_run(
            image, tr_s=tr_s, subject=subject or "n/a", confounds=confounds
        )
        found = self._of_run(self.contract.prepare(run), subject)
        table = pd.DataFrame({"volume": np.arange(run.n_volumes), "onset_s": run.onset_s})
        table["predicted"] = np.asarray(self.classes)[found.argmax(axis=1)]
        return table.assign(**{f"p_{name}": found[:, k] for k, name in enumerate(self.classes)})

    def adapt(self, X: np.ndarray | Samples, y: Sequence | None, subject: str) -> "Decoder":
        """Return a decoder that also knows a new subject; this one stays as it is.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_features), or Samples
            The subject's own data: a localiser, a time-locked run.
        y : sequence of n_rows keys
            What each row shows, as the decoder's alignment was fitted: labels, or the keys of
            `emodecode.evaluate.alignment.class_keys`, or ``"SESSION|RUN VOLUME"``. Of `Samples`
            the labels, if None.
        subject : str

        Raises
        ------
        InputError
            The decoder has no step that adapts, or two that need different keys.
        """
        if isinstance(X, Samples):
            y = list(X.y) if y is None else y
            X = X.X
        able = [name for name, step in self.pipeline.steps if hasattr(step, "adapt")]
        if len(able) != 1 or y is None:
            raise InputError(
                f"adapt: sub-{subject}",
                found="no key for each row (y)"
                if y is None
                else f"{len(able)} steps that adapt to a subject ({', '.join(able) or 'none'})",
                expected="a decoder with one such step, and a key for each row",
                remedy="Train with [align], or with features.select_by = 'own', to adapt; other "
                "decoders take every subject as it is.",
            )
        values, steps = self.contract.check_features(X), []
        whose = np.full(len(values), str(subject))
        with sklearn.config_context(enable_metadata_routing=True):
            for name, step in self.pipeline.steps:
                if name == able[0]:
                    step = step.adapt(values, y, str(subject))
                elif is_step(step) and hasattr(step, "transform"):
                    values = transform_step(step, values, whose)
                steps.append((name, step))
        return replace(self, pipeline=Pipeline(steps))

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the decoder as a new folder, which gets its name when it is complete.

        Raises
        ------
        InputError
            The folder exists already.
        ContractError
            A step that has no form on disk.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError(
                str(folder),
                found="it exists already",
                expected="a new folder",
                remedy="Choose another name or delete the folder.",
            )
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            self.write_into(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def write_into(self, folder: Path) -> None:
        """Write the files of the decoder into an empty folder."""
        for name, image in ((MASK, self.contract.mask), (PARCELS, self.contract.parcels)):
            if image is not None:
                nib.save(image, folder / name)
        content = self.describe() | {"steps": store_pipeline(self.pipeline, folder)}
        (folder / CARD).write_text(write_card(content), encoding="utf-8")
        seal(folder, content)

    def describe(self) -> dict[str, Any]:
        """Return what ``decoder.json`` says, without files and hashes."""
        steps = [type(step).__name__ for _, step in self.pipeline.steps if is_step(step)]
        model = {"name": "decoder", "kind": steps[-1]} | self.about.get("model", {})
        others = {"versions": {}, "created": _now()} | self.about
        return others | {
            "contract": self.contract.to_json(),
            "model": model | self._own() | {"steps": steps, "temperature": self.temperature},
            "subjects": None if self.subjects is None else list(self.subjects),
        }

    def _own(self) -> dict[str, int]:
        window = getattr(self.pipeline.steps[-1][1], "window", None) or 1
        return {"window": window} if window > 1 else {}

    def export(self, path: str | os.PathLike) -> float:
        """Write a network decoder as one ONNX graph, see `emodecode.storage.graph.export_graph`.

        Its input ``features (batch, n_features)`` is what `Contract.prepare` makes of a run; its
        output is ``probabilities (batch, n_classes)``.
        """
        from emodecode.storage.graph import export_graph

        return export_graph(
            self.pipeline,
            Path(path),
            predict=self.predict,
            n_features=self.contract.n_features,
            temperature=self.temperature,
        )

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Decoder":
        """Open a folder that `save` or `emodecode train` wrote.

        Every file is compared with its hash first, and nothing in them is run: no pickle.

        Raises
        ------
        DataMissingError
            No such folder.
        ContractError
            A file that is missing, truncated, edited, or holds what no decoder consists of.
        """
        folder = Path(folder)
        content = unseal(folder)
        try:
            contract = _contract(folder, content["contract"])
            pipeline = load_pipeline(folder, content["steps"])
            temperature = content["model"]["temperature"]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            found = f"a part is missing or wrong ({error!r})"
            raise changed(folder / "decoder.json", found) from error
        made = ("contract", "steps", "subjects", "files", "format", "format_version", "sha256")
        about = {key: value for key, value in content.items() if key not in made}
        return cls(pipeline, contract, temperature, about)

    def _of_run(self, values: np.ndarray, subject: str | Sequence[str] | None) -> np.ndarray:
        moments = np.stack([np.zeros(len(values), np.int64), np.arange(len(values))], axis=1)
        return self._probabilities(values, subject, moments)

    def _probabilities(
        self, X: np.ndarray, subject: str | Sequence[str] | None, moments: np.ndarray | None
    ) -> np.ndarray:
        values: Any = np.asarray(self.contract.check_features(X), dtype=np.float32)
        whose = self._whose(subject, len(values))
        *front, (_, classifier) = self.pipeline.steps
        with sklearn.config_context(enable_metadata_routing=True):
            for _, step in front:
                values = transform_step(step, values, whose) if is_step(step) else values
            asks = moments is not None and asks_for(classifier, "predict_proba", "moments")
            given = classifier.predict_proba(values, **({"moments": moments} if asks else {}))
        if not np.isfinite(given).all():
            raise InputError(
                "decoder",
                found=f"{int((~np.isfinite(given)).any(axis=1).sum())} predictions not finite",
                expected="finite probabilities",
                remedy="Check the features: do they look like those of the training?",
            )
        found = np.zeros((len(values), len(self.classes)))
        found[:, [self.classes.index(str(name)) for name in classifier.classes_]] = given
        return found if self.temperature is None else apply_temperature(found, self.temperature)

    def _whose(self, subject: str | Sequence[str] | None, n: int) -> np.ndarray | None:
        known = self.subjects
        if known is None:
            return None
        if subject is None:
            raise NotCalibratedError(
                "decoder",
                found="no subject is named",
                expected=f"one that the decoder is adapted to ({', '.join(known)})",
                remedy="Name the subject (--subject), or adapt the decoder to a new one first "
                "(Decoder.adapt).",
            )
        names = np.asarray(subject, dtype=str)
        if names.shape not in ((), (n,)):
            raise InputError(
                "decoder",
                found=f"{len(names)} subjects for {n} samples",
                expected="one subject, or one for each sample",
                remedy="Pass the subjects of the same rows.",
            )
        return np.broadcast_to(names, (n,))


def _asks_whose(step: Any) -> bool:
    return is_step(step) and asks_for(step, "transform", "subjects")


def _contract(folder: Path, described: dict[str, Any]) -> Contract:
    given = {key: value for key, value in described.items() if key != "causal"}
    shape, affine = given.pop("shape"), given.pop("affine")
    images: dict[str, Any] = {}
    if shape is not None:
        images["mask"] = _image(folder / MASK, shape, affine, np.uint8)
    if given["features"] == "parcels":
        images["parcels"] = _image(folder / PARCELS, shape, affine, np.int32)
    for name in ("classes", "names", "confounds"):
        given[name] = None if given[name] is None else tuple(given[name])
    given |= images
    contract = Contract(**given)
    inside = None if contract.mask is None else int(np.count_nonzero(contract.mask.dataobj))
    if given["features"] == "voxels" and inside != contract.n_features:
        raise changed(folder / MASK, f"{inside} voxels for {contract.n_features} features")
    return contract


def _image(path: Path, shape: list[int], affine: list, kind: type) -> nib.Nifti1Image:
    """Read an image of the folder; its affine comes from the JSON, at full precision."""
    try:
        values = np.asanyarray(open_image(path).dataobj)
    except (InputError, OSError, EOFError, ValueError) as error:
        raise changed(path, "no readable image") from error
    if list(values.shape) != shape:
        raise changed(path, f"shape {values.shape} instead of {tuple(shape)}")
    return nib.Nifti1Image(values.astype(kind), np.asarray(affine, dtype=np.float64))


def _now() -> str:
    return datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
