"""Which of the images of a BIDS tree are meant."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from emodecode.errors import InputError
from emodecode.read.files import BidsFile

VARIANT = ("space", "cohort", "res", "den")
"""Entities that tell apart the same run resampled to several grids."""

RUN_KEY = ("sub", "ses", "task", "run")


def run_key(entities: Mapping[str, str | int]) -> tuple:
    """(subject, session, task, run) of a file, "n/a" where its name has none."""
    return tuple(entities.get(name, "n/a") for name in RUN_KEY)


def run_name(key: tuple) -> str:
    """``sub-03 task-film run-2`` of such a key, for messages."""
    pairs = zip(RUN_KEY, key, strict=True)
    return " ".join(f"{name}-{value}" for name, value in pairs if value != "n/a")


def run_spellings(images: Sequence[BidsFile]) -> dict[str | int, str]:
    """One spelling per run number, the first one found, so that "1" and "01" are one run."""
    names: dict[str | int, str] = {}
    for image in images:
        names.setdefault(image.get("run") or 0, image.run)
    return names


@dataclass(frozen=True)
class Selection:
    """What the study says about the images to use; None leaves a question open.

    `space` may go on with further entities: ``MNI152NLin2009cAsym:res-2``.
    """

    task: str | None = None
    space: str | None = None
    desc: str | None = None
    sessions: Sequence[str] | None = None
    runs: Sequence[str] | None = None
    subjects: Sequence[str] | None = None
    exclude: Mapping[str, str] = field(default_factory=dict)

    def apply(
        self, images: list[BidsFile], *, present: set[str]
    ) -> tuple[list[BidsFile], list[str]]:
        """Keep the images that are meant, in order of subject, session and run.

        Parameters
        ----------
        images : list of BidsFile
        present : set of str
            All subjects that have a folder.

        Returns
        -------
        images : list of BidsFile
        notes : list of str

        Raises
        ------
        InputError
            A question is open and has several answers, an answer is not there, or a run has two
            images.
        """
        images = _one(images, lambda image: str(image.get("task") or "n/a"), self.task, "task")
        images = _one(_of_space(images, self.space), _variant, None, "space")
        images, notes = _of_desc(images, self.desc)
        images, more = self._without_excluded(images, present)
        for entity, what, wanted in self._lists():
            images = _among(images, entity, wanted, what)
        if not images:
            raise InputError(
                "data",
                found="no image left after subjects, sessions and runs",
                expected="a choice that some image fits",
                remedy="Loosen data.subjects, data.sessions or data.runs.",
            )
        images = sorted(images, key=_order)
        _refuse_duplicates(images)
        return images, notes + more

    def holds(self, key: tuple) -> bool:
        """Whether a run (see `run_key`) is of a subject, session and run that are asked for."""
        values = dict(zip(RUN_KEY, key, strict=True))
        for entity, _, wanted in self._lists():
            if wanted is not None and values[entity] not in _wanted_values(entity, wanted):
                return False
        return values["sub"] not in self._reasons()

    def _lists(self) -> tuple[tuple[str, str, Sequence[str] | None], ...]:
        return (
            ("sub", "subject", self.subjects),
            ("ses", "session", self.sessions),
            ("run", "run", self.runs),
        )

    def _reasons(self) -> dict[str, str]:
        return {subject.removeprefix("sub-"): why for subject, why in self.exclude.items()}

    def _without_excluded(
        self, images: list[BidsFile], present: set[str]
    ) -> tuple[list[BidsFile], list[str]]:
        reasons = self._reasons()
        for subject in reasons:
            if subject not in present:
                raise InputError(
                    "data.exclude",
                    found=f"no subject {subject!r}",
                    expected=f"one of {', '.join(sorted(present))}",
                    remedy="Correct data.exclude.",
                )
        kept = [image for image in images if image.get("sub") not in reasons]
        if not kept:
            raise InputError(
                "data.exclude",
                found=f"all {len(reasons)} subjects are excluded",
                expected="at least one subject",
                remedy="Shorten data.exclude.",
            )
        return kept, [f"sub-{subject} is excluded: {why}" for subject, why in reasons.items()]


def _one(
    images: list[BidsFile], value: Callable[[BidsFile], str], wanted: str | None, what: str
) -> list[BidsFile]:
    counts = Counter(value(image) for image in images)
    if wanted is not None:
        if wanted not in counts:
            raise _nothing(f"data.{what}", what, wanted, counts)
        return [image for image in images if value(image) == wanted]
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({n} images)" for name, n in sorted(counts.items()))
        raise InputError(
            f"data.{what}",
            found=f"it is not set, and there are several: {listed}",
            expected=f"one {what}",
            remedy=f"Set data.{what} to one of them.",
        )
    return images


def _of_space(images: list[BidsFile], space: str | None) -> list[BidsFile]:
    if space is None:
        return images
    wanted, *extra = space.split(":")
    limits = dict(item.split("-", 1) for item in extra if "-" in item)
    limits["space"] = wanted.removeprefix("space-")
    kept = [image for image in images if _has_variant(image, limits)]
    if not kept:
        raise _nothing("data.space", "space", space, map(_variant, images))
    return kept


def _variant(image: BidsFile) -> str:
    space = image.get("space") or "none"
    rest = [f"{name}-{image.get(name)}" for name in VARIANT[1:] if image.get(name) is not None]
    return ":".join([str(space), *rest])


def _has_variant(image: BidsFile, limits: Mapping[str, str]) -> bool:
    """Whether all entities fit; "none" and "native" also fit a name without the entity."""
    for name, wanted in limits.items():
        value = image.get(name)
        if str(value) != wanted and not (value is None and wanted in ("none", "native")):
            return False
    return True


def _of_desc(images: list[BidsFile], desc: str | None) -> tuple[list[BidsFile], list[str]]:
    def value(image: BidsFile) -> str:
        return str(image.get("desc") or "none")

    notes = []
    present = {value(image) for image in images}
    if desc is None and len(present) > 1 and "preproc" in present:
        desc = "preproc"
        notes.append(f"desc-preproc is used; also there: {', '.join(sorted(present - {desc}))}")
    return _one(images, value, desc, "desc"), notes


def _among(
    images: list[BidsFile], entity: str, wanted: Sequence[str] | None, what: str
) -> list[BidsFile]:
    if wanted is None:
        return images
    values = _wanted_values(entity, wanted)
    present = {image.get(entity) for image in images} - {None}
    for value in values:
        if value not in present:
            raise _nothing(f"data.{what}s", what, str(value), map(str, present))
    return [image for image in images if image.get(entity) in values]


def _wanted_values(entity: str, wanted: Sequence[str]) -> list[str | int]:
    texts = [str(item).removeprefix(f"{entity}-") for item in wanted]
    return [int(text) if entity == "run" and text.isdigit() else text for text in texts]


def _nothing(where: str, what: str, wanted: str, present: Iterable[str]) -> InputError:
    return InputError(
        where,
        found=f"{what} {wanted!r} has no image",
        expected=f"one of {', '.join(sorted(set(present))) or '(no image has one)'}",
        remedy=f"Correct {where}.",
    )


def _order(image: BidsFile) -> tuple:
    subject, session, _, run = run_key(image.entities)
    return str(subject), str(session), run if isinstance(run, int) else -1, str(run)


def _refuse_duplicates(images: list[BidsFile]) -> None:
    by_key: dict[tuple, list[BidsFile]] = defaultdict(list)
    for image in images:
        by_key[run_key(image.entities)].append(image)
    twice = [(key, files) for key, files in by_key.items() if len(files) > 1]
    if twice:
        key, files = twice[0]
        raise InputError(
            run_name(key),
            found=f"{len(files)} images ({', '.join(file.path.name for file in files)}); "
            f"{len(twice)} runs have more than one",
            expected="one image per subject, session, task and run",
            remedy="Move all but one out of the folder (echoes: combine them first).",
        )
