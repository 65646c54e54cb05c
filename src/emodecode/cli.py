"""The command line: read arguments, call the workflow, print."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from emodecode import __version__
from emodecode.errors import EmodecodeError, InputError

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

    _print_evaluation(run_demo(out, overwrite=overwrite, progress=not quiet))


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

    An interrupted evaluation goes on where it stopped when the same command is given again.
    """
    from emodecode import workflow

    evaluation = workflow.evaluate(
        _load(study, settings),
        out,
        n_jobs=_processes(jobs),
        scheduler=scheduler,
        overwrite=overwrite,
        progress=not quiet,
        command=" ".join(["emodecode", *sys.argv[1:]]),
    )
    _print_evaluation(evaluation)


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
    _print_alikeness(found)
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
        _print_audit(found)
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
    """Write the report of a results folder anew; nothing is refitted."""
    from emodecode.report.page import write_report

    print(write_report(results))


@app.command
def simulate(
    out: Path,
    *,
    preset: Annotated[str | None, Parameter(help="s1 or s2: designs of the papers.")] = None,
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
    for option in {"preset", "overwrite", "n_jobs", "progress"} & set(choices):
        raise InputError(
            f"--set {option}",
            found="no choice of the simulation",
            expected="a choice of docs/simulator.md",
            remedy="It is an option of its own: see `emodecode simulate --help`.",
        )
    folder = workflow.simulate(
        out,
        preset=preset,
        overwrite=overwrite,
        n_jobs=_processes(jobs),
        progress=not quiet,
        **({"seed": seed} | choices),
    )
    print(folder)


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
            "(evaluate, demo, fetch) or starts anew (the others)",
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


def _processes(jobs: int) -> int:
    if jobs >= 1 or jobs == -1:
        return jobs
    raise InputError(
        f"--jobs {jobs}",
        found="no process that could work",
        expected="1 or more, or -1 for as many as there are cores",
        remedy="Correct the number.",
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


def _print_audit(found) -> None:
    print(f"verdict: {found.verdict}")
    for finding in found.findings:
        print(f"\n[{finding.verdict}] {finding.rule} {finding.title}")
        print(f"  found:  {finding.n_samples} test samples; worst: {finding.worst}")
        print(f"  danger: {finding.danger}")
        print(f"  remedy: {finding.remedy}")
    _print_overlap(found.overlap)
    if found.not_checked:
        print("\nnot checked:")
    for question in found.not_checked:
        print(f"  {question}")


_WHOSE = {"stimulus": "any subject", "subject": "own run where trained on"}
"""Clock of the time-only decoder -> whose samples it looks at."""


def _print_overlap(overlap: dict[str, Any]) -> None:
    """What train and test share, as far as the table tells."""
    rows = [
        ("test samples whose moment of the stimulus is in training", "share_stimulus_in_training"),
        ("other subjects in training with that moment, mean", "mean_other_subjects_in_training"),
    ]
    known = [(text, overlap.get(key)) for text, key in rows]
    for seconds, share in (overlap.get("share_same_subject_within") or {}).items():
        known.append((f"with a training volume of the same run within {seconds} s", share))
    for clock, scores in (overlap.get("time_only") or {}).items():
        for metric, value in (scores or {}).items():
            text = f"nearest in time, {_WHOSE[clock]}, no brain data: {metric.replace('_', ' ')}"
            known.append((text, value))
    known = [(text, value) for text, value in known if value is not None]
    if known:
        print("\nwhat train and test share:")
    for text, value in known:
        print(f"  {text:<72}{value:>8.3f}")


def _print_alikeness(found) -> None:
    """Print how well segments are found again in other subjects, before and after alignment."""
    for tested in dict.fromkeys(each.tested_on for each in found):
        own = [each.row() for each in found if each.tested_on == tested]
        first = own[0]
        print(
            f"\ntested on {tested}, fitted on {first['fitted_on'] or 'nothing'} "
            f"({first['n_subjects']} subjects; chance of matching {first['chance']:.3f})\n"
        )
        print(f"{'method':<16}  segments matched [95 %]    inter-subject correlation [95 %]")
        for row in own:
            print(f"{row['method']:<16}  {_interval(row, 'matching'):<24}  {_interval(row, 'isc')}")


def _interval(row: dict[str, Any], name: str) -> str:
    low, high = _number(row[f"{name}_low"]), _number(row[f"{name}_high"])
    return f"{_number(row[name])} [{low}, {high}]"


def _print_evaluation(evaluation) -> None:
    """Print scores, chance, audit and controls, of the published form first if there is one."""
    if evaluation.published is not None:
        print("\nAS PUBLISHED")
        _print_scores(evaluation.published)
        print("\nHONEST")
    _print_scores(evaluation)
    print(f"\nreport: {evaluation.folder / 'report.html'}")


def _print_scores(evaluation) -> None:
    scores, audit = evaluation.scores, evaluation.audit
    mark = "" if audit.verdict != "leak" else "  LEAK: see audit"
    width, approximate = max(len(name) for name in scores["models"]), False
    print(f"\n{scores['split']['sentence']}")
    print(f"audit: {audit.verdict}\n")
    print(f"{'model':<{width}}  balanced accuracy [95 % over subjects]  chance      p  macro AUC")
    for name, model in scores["models"].items():
        accuracy, auc = model["balanced_accuracy"], model["macro_auc"]
        interval = f"[{_number(accuracy['low'])}, {_number(accuracy['high'])}]"
        fixed = (model.get("test") or {}).get("method") == "predictions"
        about = "~" if fixed and model.get("kind") != "dummy" else " "
        approximate = approximate or about == "~"
        print(
            f"{name:<{width}}  {_number(accuracy['value']):>17} {interval:<20}"
            f"  {_number(accuracy['chance']):>6}  {_number(accuracy.get('p')):>5}{about}"
            f" {_number(auc['value']):>9}{mark}"
        )
    if approximate:
        print("~ approximate: predictions fixed, nothing refitted (evaluate.permutation)")
    _print_alignment(scores.get("alignment"))
    _print_controls(audit)
    for each in scores.get("comparisons") or []:
        print(each["sentence"])


def _print_alignment(alignment: dict[str, Any] | None) -> None:
    """Print what aligned scores have to be read against."""
    if not alignment:
        return
    print(f"\naligned ({alignment['protocol']}): {alignment['fitted_on']}")
    print(f"assumes: {alignment['assumes']}")
    if not alignment["beside"]:
        print("beside: nothing (align.beside = false)")
        return
    width = max(len(each["model"]) for each in alignment["beside"])
    print(f"\n{'beside':<{width}}  {'':<17}  balanced accuracy          chance  macro AUC")
    for each in alignment["beside"]:
        accuracy, kind = each["balanced_accuracy"], each["kind"].replace("_", " ")
        if each["why_not"]:
            print(f"{each['model']:<{width}}  {kind:<17}  not scored: {each['why_not']}")
            continue
        interval = f"[{_number(accuracy['low'])}, {_number(accuracy['high'])}]"
        print(
            f"{each['model']:<{width}}  {kind:<17}  {_number(accuracy['value'])} {interval:<18}"
            f"  {_number(accuracy['chance']):>6}  {_number(each['macro_auc']['value']):>9}"
        )
    for each in alignment["beside"]:
        if each.get("gain"):
            print(each["gain"]["sentence"])


def _print_controls(audit) -> None:
    if audit.controls_share is None:
        print("\ncontrols: switched off (evaluate.controls = false)\n")
        return
    print(f"\ncontrols ({audit.controls_share:.1f} times the decoders' own time):")
    for control in audit.controls:
        passed = {True: "passed", False: "FAILED", None: "not asked"}[control["passed"]]
        print(f"  {passed:<10}{control['sentence']}")
    print()


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
