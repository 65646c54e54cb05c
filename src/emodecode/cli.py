"""The command line: read arguments, call the workflow, print."""

import contextlib
import json
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from emodecode import __version__
from emodecode.errors import EmodecodeError, InputError
from emodecode.printing import (
    print_alikeness,
    print_audit,
    print_decoder,
    print_evaluation,
    print_explanation,
    print_kinds,
)

app = App(
    name="emodecode",
    version=__version__,
    help="Decode emotional states from fMRI and prove what the decoding is worth.",
    suppress_keyboard_interrupt=False,  # main says that the work goes on
)

Out = Annotated[Path, Parameter(name="--out", help="Folder for the results.")]
Overwrite = Annotated[bool, Parameter(negative="", help="Replace an earlier result.")]
Quiet = Annotated[bool, Parameter(negative="", help="No progress bar.")]
Settings = Annotated[
    list[str] | None,
    Parameter(name="--set", negative="", help="key=value: replaces a key of the study."),
]


@app.command
def demo(*, out: Out = Path("demo-out"), overwrite: Overwrite = False, quiet: Quiet = False):
    """Simulate 12 subjects, label, evaluate three decoders and write the report."""
    from emodecode.workflow import run_demo

    print_evaluation(run_demo(out, overwrite=overwrite, progress=not quiet))


@app.command
def label(study: Path, *, out: Out, settings: Settings = None, overwrite: Overwrite = False):
    """Label the volumes of a study: sample table, events per run, figure over time."""
    from emodecode import workflow

    labelled = workflow.label(_load(study, settings), out, overwrite=overwrite)
    counts = labelled.table.groupby("label").size().sort_values(ascending=False)
    print(f"{len(labelled.table)} samples of {len(counts)} labels")
    for name, count in counts.items():
        print(f"  {name:<24}{count:>8}")
    for note in labelled.notes:
        print(f"note: {note}")
    print(f"written to {out}")


@app.command
def evaluate(
    study: Path,
    *,
    out: Out,
    jobs: Annotated[int, Parameter(help="Processes on this machine.")] = 1,
    scheduler: Annotated[str | None, Parameter(help="Address of a Dask scheduler.")] = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
):
    """Evaluate the decoders of a study and write the report.

    An interrupted evaluation goes on where it stopped when the same command is given again. Under
    torchrun (--no-python emodecode ...) all processes train every network together.
    """
    from emodecode import workflow

    with _shared_training(out, jobs) as folder:
        evaluation = workflow.evaluate(
            _load(study, settings),
            folder,
            n_jobs=_processes(jobs),
            scheduler=scheduler,
            overwrite=overwrite,
            progress=not quiet,
            command=" ".join(["emodecode", *sys.argv[1:]]),
        )
        print_evaluation(evaluation)


@app.command
def explain(
    study: Path,
    *,
    out: Out,
    model: Annotated[str | None, Parameter(help="One of the study's models; all of them.")] = None,
    jobs: Annotated[int, Parameter(help="Processes on this machine.")] = 1,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
):
    """Show what the decoders of a study used: occlusion, tested maps, sanity checks, places.

    Every decoder is fitted in every fold and explained on the samples that were held out there.
    Given again after an interruption, the same command keeps the folds that are done.
    """
    from emodecode import workflow

    told = workflow.explain(
        _load(study, settings),
        out,
        model=model,
        n_jobs=_processes(jobs),
        overwrite=overwrite,
        progress=not quiet,
        command=" ".join(["emodecode", *sys.argv[1:]]),
    )
    print_explanation(told)
    print(f"\npage: {out / 'explanation.html'}")


@app.command
def train(
    study: Path,
    *,
    out: Out,
    model: Annotated[str | None, Parameter(help="Which of the study's models.")] = None,
    results: Annotated[
        Path | None, Parameter(help="Take the scores from results of this study.")
    ] = None,
    jobs: Annotated[int, Parameter(help="Processes on this machine.")] = 1,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
):
    """Fit a decoder of a study on all samples; write it with its card and scores.

    Without --results the model is evaluated first. An interrupted training goes on where it stopped
    when the same command is given again.
    """
    from emodecode import workflow

    with _shared_training(out, jobs) as folder:
        decoder = workflow.train(
            _load(study, settings),
            folder,
            model=model,
            results=results,
            n_jobs=_processes(jobs),
            overwrite=overwrite,
            progress=not quiet,
        )
        print_decoder(decoder.describe(), out)


@app.command
def predict(
    decoder: Path,
    image: Path,
    *,
    out: Annotated[Path | None, Parameter(name="--out", help="File for the table (TSV).")] = None,
    subject: Annotated[str | None, Parameter(help="Whose run it is: for aligned decoders.")] = None,
    tr_s: Annotated[
        float | None, Parameter(help="Repetition time, if the header is wrong.")
    ] = None,
    confounds: Annotated[Path | None, Parameter(help="Confounds table of the run (TSV).")] = None,
):
    """Decode every volume of a run (NIfTI): a table of probabilities."""
    from emodecode import workflow

    table = workflow.predict(
        decoder, image, out=out, subject=subject, tr_s=tr_s, confounds=confounds
    )
    if out is None:
        print(table.to_csv(sep="\t", index=False, lineterminator="\n"), end="")
    else:
        print(f"{len(table)} volumes, written to {out}")


@app.command
def export(
    decoder: Path, *, onnx: Annotated[Path, Parameter(name="--onnx", help="File to write.")]
):
    """Export a network decoder as one ONNX graph, checked against the decoder."""
    from emodecode import workflow

    difference = workflow.export(decoder, onnx)
    print(f"written to {onnx}; probabilities differ by {difference:.1e} at most")


@app.command
def align(
    study: Path,
    *,
    out: Out,
    settings: Settings = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
):
    """Compare ways into one space for all subjects, on runs that no map was fitted on."""
    from emodecode import workflow

    found = workflow.align(_load(study, settings), out, overwrite=overwrite, progress=not quiet)
    print_alikeness(found)
    print(f"written to {out}")


@app.command
def audit(
    study: Path | None = None,
    *,
    table: Annotated[Path | None, Parameter(help="A sample table (TSV), of any tool.")] = None,
    splits: Annotated[Path | None, Parameter(help="Its folds (JSON).")] = None,
    fitted: Annotated[Path | None, Parameter(help="What its fitted steps saw (JSON).")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
    settings: Settings = None,
):
    """Audit the folds of a study, or of any table with a split file; exit code 1 for a leak.

    The split file is a list of {"train": [rows], "calibrate": [rows], "test": [rows]}, one a fold,
    with row numbers of the table from 0. The file of fitted steps is a list, one entry a fold, of
    {"step": name, "kind": kind, "rows": [rows]}; docs/evaluation.md has both formats.
    """
    from emodecode import workflow

    if study is not None and table is None and splits is None and fitted is None:
        found = workflow.audit_study(_load(study, settings))
    elif study is None and table is not None and splits is not None and not settings:
        found = workflow.audit_files(table, splits, fitted=fitted)
    else:
        raise InputError(
            "emodecode audit",
            found="neither a study nor a table with splits, or options of both",
            expected="a study (and --set), or --table and --splits (and --fitted)",
            remedy="For example: emodecode audit study.toml",
        )
    if as_json:
        print(json.dumps(found.to_json(), indent=1))
    else:
        print_audit(found)
    return 1 if found.verdict == "leak" else 0


@app.command
def compare(
    *results: str,
    metric: Annotated[
        str, Parameter(help="balanced_accuracy, accuracy, macro_auc or log_loss.")
    ] = "balanced_accuracy",
    rope: Annotated[float, Parameter(help="Differences below this are none.")] = 0.01,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(help="Write the comparison as JSON.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
):
    """Compare decoders on the same folds: FOLDER or FOLDER:MODEL of results, two or more."""
    from emodecode import workflow
    from emodecode.report.comparison import format_comparison

    found = workflow.compare(list(results), metric=metric, rope=rope, seed=seed, out=out)
    print(json.dumps(found, indent=1) if as_json else format_comparison(found))


@app.command
def report(results: Path):
    """Write the report of a results folder, or of an explanation, anew; nothing is refitted."""
    from emodecode.report.explained import write_explained_page
    from emodecode.report.page import write_report

    explained = (results / "explanation.json").is_file()
    print(write_explained_page(results) if explained else write_report(results))


@app.command
def simulate(
    out: Path,
    *,
    preset: Annotated[str | None, Parameter(help="s1, s2 or s2b: designs of the papers.")] = None,
    annotations: Annotated[
        Path | None, Parameter(help="Folder of a film's real annotations: plant their emotions.")
    ] = None,
    design: Annotated[str | None, Parameter(help="blocks or movie.")] = None,
    code: Annotated[str | None, Parameter(help="linear, interaction, mixed or null.")] = None,
    subjects: Annotated[int | None, Parameter(help="Number of subjects.")] = None,
    runs: Annotated[int | None, Parameter(help="Runs a subject.")] = None,
    seed: int = 0,
    jobs: Annotated[int, Parameter(help="Processes on this machine.")] = 1,
    settings: Annotated[
        list[str] | None,
        Parameter(name="--set", negative="", help="key=value: any choice of docs/simulator.md."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
):
    """Simulate a BIDS data set with a planted answer, observers and all."""
    from emodecode import workflow

    named = {"design": design, "code": code, "n_subjects": subjects, "n_runs": runs}
    choices = {key: value for key, value in named.items() if value is not None}
    choices |= _settings(settings)
    for option in {"preset", "annotations", "overwrite", "n_jobs", "progress"} & set(choices):
        raise InputError(
            f"--set {option}",
            found="no choice of the simulation",
            expected="a choice of docs/simulator.md",
            remedy="It is an option of its own: see `emodecode simulate --help`.",
        )
    folder = workflow.simulate(
        out,
        preset=preset,
        annotations=annotations,
        overwrite=overwrite,
        n_jobs=_processes(jobs),
        progress=not quiet,
        **({"seed": seed} | choices),
    )
    print(folder)


@app.command
def models(
    kind: str | None = None,
    *,
    shape: Annotated[str, Parameter(help="Voxels of a volume, for 3-D networks.")] = "64,64,44",
    classes: Annotated[int, Parameter(help="Number of classes.")] = 3,
    features: Annotated[int, Parameter(help="Voxels of a vector, for 1-D networks.")] = 300,
    window: Annotated[int | None, Parameter(help="3-D networks on windows of so many.")] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
):
    """List the kinds of decoder, with the parameters and multiply-adds of networks.

    With a KIND: its parameters and defaults as well.
    """
    from emodecode import workflow

    sizes: dict[str, Any] = {"shape": _shape(shape)}
    sizes["n_classes"] = _at_least("--classes", classes, 2)
    sizes["n_features"] = _at_least("--features", features, 1)
    sizes["window"] = None if window is None else _at_least("--window", window, 1)
    found = workflow.models(kind, **sizes)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        print_kinds(found, detail=kind is not None, **sizes)


@app.command
def fetch(
    name: str,
    *,
    out: Out,
    subjects: Annotated[list[str] | None, Parameter(help="Only these.", negative="")] = None,
    runs: Annotated[list[str] | None, Parameter(help="Only these.", negative="")] = None,
    url: Annotated[str | None, Parameter(help="Base address of a mirror.")] = None,
    quiet: Quiet = False,
):
    """Fetch a named public data set, checked by its checksums; an interrupted one goes on."""
    from emodecode import workflow

    paths = workflow.fetch(
        name, out, subjects=subjects, runs=runs, base_url=url, progress=not quiet
    )
    for path in paths:
        print(path)


def main(tokens: list[str] | None = None) -> None:
    """Run the command line; exit code 2 and three lines for an error that the user can mend."""
    try:
        code = app(tokens, exit_on_error=False, print_error=True, result_action="return_value")
    except CycloptsError:
        sys.exit(2)
    except EmodecodeError as error:
        print(f"emodecode: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            "emodecode: interrupted; the same command goes on where it stopped "
            "(evaluate, demo, train, fetch) or starts anew (the others)",
            file=sys.stderr,
        )
        sys.exit(130)
    except OSError as error:
        if error.errno is None:
            raise
        print(f"emodecode: {_of_system(error)}", file=sys.stderr)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _of_system(error: OSError) -> InputError:
    """Say what the operating system refused: a full disk, a file that may not be read."""
    return InputError(
        str(error.filename or "emodecode"),
        found=f"the system says: {error.strerror}",
        expected="files that may be read and written, on a disk with room",
        remedy="Mend that and give the same command again.",
    )


@contextlib.contextmanager
def _shared_training(out: Path, jobs: int) -> Iterator[Path]:
    """Join the processes that torchrun started; give the folder that this one writes into."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield out
        return
    if jobs != 1:
        raise InputError(
            f"--jobs {jobs}",
            found="several jobs in each of torchrun's processes",
            expected="one: the processes train every network together",
            remedy="Leave --jobs out, or torchrun.",
        )
    from emodecode.models.shared import folder_of_process, process_group
    from emodecode.output import RESUME_FOLDER

    with process_group(), folder_of_process(out, RESUME_FOLDER) as folder:
        yield folder


def _processes(jobs: int) -> int:
    if jobs >= 1 or jobs == -1:
        return jobs
    raise InputError(
        f"--jobs {jobs}",
        found="no process that could work",
        expected="1 or more, or -1 for as many as there are cores",
        remedy="Correct the number.",
    )


def _at_least(option: str, number: int, least: int) -> int:
    if number >= least:
        return number
    raise InputError(
        f"{option} {number}",
        found="too small a number",
        expected=f"{least} or more",
        remedy="Correct the number.",
    )


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) == 3 and all(part.strip().isdecimal() and int(part) for part in parts):
        return tuple(int(part) for part in parts)
    raise InputError(
        f"--shape {text}",
        found="no three numbers of voxels",
        expected="x,y,z, such as 64,64,44",
        remedy="Write three whole numbers with commas between them.",
    )


def _load(study: Path, settings: list[str] | None):
    from emodecode.study import load_study

    return load_study(study, overrides=_settings(settings))


def _settings(settings: list[str] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in settings or []:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"--set {setting}",
                found="no key=value",
                expected="a dotted key and a value, such as --set evaluate.split=shuffled",
                remedy="Write the key, an equals sign and the value without blanks.",
            )
        values[key.strip()] = _value(value)
    return values


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
