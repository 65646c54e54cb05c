"""Study: the typed TOML file that names every choice that a result depends on."""

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from emodecode.errors import DataMissingError, InputError
from emodecode.sections import (
    ALIGNS_ON_TASK,
    Align,
    BidsData,
    Clean,
    DesignData,
    Evaluate,
    Explain,
    Features,
    Labels,
    MatData,
    Model,
    Section,
    TableData,
)

PUBLISHED_KEYS = (
    *("evaluate.", "align.", "models"),
    "explain.",
    *("features.fit_on", "features.n_voxels", "features.select_by"),
)
"""Keys that the published form of a study may change: both forms use the same samples."""


def _usual_models() -> list[Model]:
    return [Model(name=kind, kind=kind) for kind in ("dummy", "logistic", "lda")]


class Study(Section):
    """Every choice that a result depends on.

    `as_published` holds dotted keys of a published form that is evaluated beside this one;
    `compare_with` names the paper whose printed numbers stand on the report's page beside ours.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    title: str = ""
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    data: Annotated[BidsData | MatData | TableData | DesignData, Field(discriminator="source")]
    labels: Labels = Labels()
    features: Features = Features()
    align: Align | None = None
    models: Annotated[list[Model], Field(min_length=1)] = Field(default_factory=_usual_models)
    evaluate: Evaluate = Evaluate()
    explain: Explain = Explain()
    as_published: dict[str, Any] = Field(default_factory=dict)
    compare_with: Literal["S1", "S2-A", "S2-B"] | None = None

    @field_validator("as_published")
    @classmethod
    def _only_what_keeps_the_samples(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in values:
            if not key.startswith(PUBLISHED_KEYS):
                raise ValueError(
                    f"only evaluate.*, {', '.join(PUBLISHED_KEYS[1:])} (dotted keys), not {key!r}"
                )
        return values

    @field_validator("data", mode="before")
    @classmethod
    def _bids_by_default(cls, data: Any) -> Any:
        return {"source": "bids"} | data if isinstance(data, dict) else data

    @field_validator("models", mode="before")
    @classmethod
    def _name_models(cls, models: Any) -> Any:
        if not isinstance(models, list):
            return models
        named = [{"name": m, "kind": m} if isinstance(m, str) else m for m in models]
        return [
            ({"kind": m["name"]} | m) if isinstance(m, dict) and "name" in m else m for m in named
        ]

    @model_validator(mode="after")
    def _unique_models(self) -> "Study":
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: the name {name!r} is given twice")
        return self

    @model_validator(mode="after")
    def _aligned_models_beside(self) -> "Study":
        named = self.align.beside if self.align is not None else True
        if isinstance(named, list):
            aligned = [each.name for each in self.models if each.align and each.kind != "dummy"]
            for name in named:
                if name not in aligned:
                    known = ", ".join(aligned) or "the study has none"
                    raise ValueError(f"align.beside: {name!r} is no aligned model ({known})")
        return self


def load_study(path: str | os.PathLike, *, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study file.

    Parameters
    ----------
    path : path of a TOML file
        Paths inside it are relative to its folder; ``$NAME`` in them is an environment variable.
    overrides : dict, optional
        Dotted keys and values that replace what the file says (``{"evaluate.split": "shuffled"}``).

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No valid TOML, an unknown key (the nearest known one is named) or a value out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a study in TOML",
            remedy="Check the path; `emodecode demo` writes one to start from.",
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            str(path),
            found=f"not valid TOML ({error})",
            expected="a study in TOML",
            remedy="Correct that line.",
        ) from error
    _override(values, overrides or {})
    return make_study(values, where=str(path), folder=path.parent)


def make_study(
    values: dict[str, Any], *, where: str = "study", folder: Path | None = None
) -> Study:
    """Check the values of a study; paths become absolute, relative to `folder`."""
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise _study_error(where, error) from error
    return _resolve_paths(study, Path(folder or "."), where)


def published_form(study: Study) -> Study:
    """Return the study as it was published: `as_published` applied, leaks allowed."""
    values = _without_none(study.model_dump(mode="json", exclude={"as_published"}))
    _override(values, study.as_published | {"evaluate.allow_leakage": True})
    return make_study(values, where=f"{study.name}: as_published")


def write_study(study: Study, path: Path) -> None:
    """Write the study as resolved (every default spelled out)."""
    text = tomli_w.dumps(_without_none(study.model_dump(mode="json")))
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _override(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set dotted keys; a protocol that knows no other task drops the one that was there."""
    for key, value in changes.items():
        _set_dotted(values, key, value)
    protocol = changes.get("align.protocol", ALIGNS_ON_TASK[0])
    if protocol not in ALIGNS_ON_TASK and "align.task" not in changes:
        values["align"].pop("task", None)


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(
                f"--set {key}",
                found=f"{parent} is no table",
                expected="a dotted key such as evaluate.split",
                remedy="docs/study.md lists all keys.",
            )
    values[last] = value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _resolve_paths(study: Study, folder: Path, where: str) -> Study:
    def resolve(path: Path | None, base: Path) -> Path | None:
        if path is None:
            return None
        text = os.path.expandvars(path.expanduser())
        unset = re.search(r"\$\{?(\w+)", text)
        if unset:
            raise DataMissingError(
                where,
                found=f"{path} names the environment variable {unset[1]}, which is not set",
                expected="a path that exists",
                remedy=f"Set {unset[1]} to the folder of the data, or say --set data.path=...",
            )
        return (base / text).resolve()

    def update(section: Section, base: Path, *keys: str) -> dict[str, Path | None]:
        return {key: resolve(getattr(section, key), base) for key in keys if hasattr(section, key)}

    root = resolve(study.data.path, folder)
    assert root is not None
    data = study.data.model_copy(
        update={"path": root} | update(study.data, root, "derivatives", "mask")
    )
    labels = study.labels.model_copy(update=update(study.labels, folder, "path", "events_path"))
    features = study.features.model_copy(update=update(study.features, folder, "parcels"))
    explain = study.explain.model_copy(update=update(study.explain, folder, "atlas"))
    parts: dict[str, Section] = {"data": data, "labels": labels, "features": features}
    parts["explain"] = explain
    if study.align is not None:
        paths = update(study.align, folder, "targets", "pieces")
        parts["align"] = study.align.model_copy(update=paths)
    return study.model_copy(update=parts)


def _study_error(where: str, error: ValidationError) -> InputError:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if part not in ("bids", "mat", "table", "design")]
    key = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = _known_keys(error.title, first["loc"])
        near = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.4)
        expected = f"one of {', '.join(sorted(known))}"
        remedy = f"Did you mean {near[0]!r}?" if near else "Remove the key."
        return InputError(where, found=f"unknown key {key!r}", expected=expected, remedy=remedy)
    message = first["msg"].removeprefix("Value error, ")
    found = f"{key or 'the study'} = {_short(first.get('input'))}"
    if first["type"] == "missing":
        found, message = f"no key {key!r}", "that key: it has no default"
    return InputError(
        where, found=found, expected=message, remedy=f"Correct {key or 'the study'} there."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SECTIONS: dict[str, type[Section]] = {
    "bids": BidsData,
    "mat": MatData,
    "table": TableData,
    "design": DesignData,
    "labels": Labels,
    "features": Features,
    "clean": Clean,
    "align": Align,
    "models": Model,
    "evaluate": Evaluate,
    "explain": Explain,
}


def _known_keys(title: str, location: tuple[int | str, ...]) -> list[str]:
    names = [part for part in location[:-1] if isinstance(part, str) and part in _SECTIONS]
    section = _SECTIONS[names[-1]] if names else Study
    return list(section.model_fields)
