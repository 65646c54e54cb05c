"""What the command line prints: scores with their chance, the audit, alignment."""

import json
from typing import Any


def print_audit(found) -> None:
    """Print verdict, findings, what train and test share, and what was not checked."""
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


def print_alikeness(found) -> None:
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


def print_kinds(found, *, detail: bool, shape, n_classes: int, n_features: int, window) -> None:
    """Print kinds of decoder and what networks cost; with `detail` their parameters too."""
    width = max(len(each["kind"]) for each in found)
    for each in found:
        print(f"{each['kind']:<{width}}  {each['description']}")
        for name, value in each["parameters"].items() if detail else ():
            print(f"  {name} = {json.dumps(value)}")
    rows = [(each["kind"], row) for each in found for row in each["costs"]]
    if rows:
        volume = " x ".join(map(str, shape)) + (f", windows of {window}" if window else "")
        print(
            f"\none sample ({n_classes} classes; volumes of {volume}; vectors of {n_features}):\n\n"
            f"{'network':<20}  {'parameters':>11}  {'multiply-adds':>14}  {'kept in training':>16}"
        )
    for kind, row in rows:
        name = " ".join([kind, *(f"{key}={value}" for key, value in row["options"].items())])
        print(
            f"{name:<20}  {row['n_parameters']:>11,}  {row['multiply_adds']:>14,}"
            f"  {row['saved_bytes'] / 2**20:>12.3f} MiB"
        )
    for each in found:
        if each["why_not"]:
            print(f"{each['kind']:<20}  not counted: {each['why_not']}")


def print_evaluation(evaluation) -> None:
    """Print scores, chance, audit and controls, of the published form first if there is one."""
    if evaluation.published is not None:
        print("\nAS PUBLISHED")
        _print_scores(evaluation.published)
        print("\nHONEST")
    _print_scores(evaluation)
    print(f"\nreport: {evaluation.folder / 'report.html'}")


def print_decoder(described: dict[str, Any], folder) -> None:
    """Print what was trained and, from its evaluation, what it is worth."""
    contract, model, told = (described[key] for key in ("contract", "model", "evaluation"))
    print(
        f"{model['name']} ({model['kind']}): {', '.join(contract['classes'])} from "
        f"{contract['n_features']} {contract['features']}, {described['data']['n_samples']} samples"
    )
    print(f"audit: {told['verdict']}{'  LEAK: see the card' if told['verdict'] == 'leak' else ''}")
    for name in ("balanced_accuracy", "macro_auc"):
        score = told[name]
        interval = f"[{_number(score['low'])}, {_number(score['high'])}]"
        print(
            f"{name.replace('_', ' '):<18}{_number(score['value'])} {interval} over subjects, "
            f"chance {_number(score['chance'])}, p {_number(score['p'])}"
        )
    print(f"written to {folder} (read CARD.md)")


def _print_scores(evaluation) -> None:
    scores, audit = evaluation.scores, evaluation.audit
    mark = "" if audit.verdict != "leak" else "  LEAK: see audit"
    width, approximate = max(len(name) for name in scores["models"]), False
    print(f"\n{scores['split']['sentence']}")
    print(f"audit: {audit.verdict}\n")
    for text in scores.get("warnings") or []:
        print(f"warning: {text}\n")
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


def print_explanation(told: dict[str, Any]) -> None:
    """Print for each decoder how its maps were checked, what drops, and where."""
    if "published" in told:
        print("AS PUBLISHED")
        print_explanation(told["published"])
        print("\nHONEST")
    choices = told["choices"]
    unit = choices["unit"] if told["in_place"] else "columns"
    print(
        f"{told['n_units']:,} {unit}, fill {choices['fill']}; "
        f"audit of the folds: {told['audit']['verdict']}"
    )
    for model in told["models"]:
        score = told["scores"][model["model"]]["balanced_accuracy"]
        print(f"\n{model['model']} ({model['n_samples']:,} held-out samples, {model['way']})")
        print(
            f"  balanced accuracy {_number(score['value'])} "
            f"[{_number(score['low'])}, {_number(score['high'])}] over subjects, "
            f"chance {_number(score['chance'])}, p {_number(score.get('p'))}~"
        )
        if choices["form"] == "honest":
            print(f"  {model['sanity']['sentence']}")
            if not choices["label_draws"]:
                print("  Not checked against exchanged labels (explain.label_draws = 0).")
        for each, map_ in zip(model["classes"], model["maps"], strict=True):
            found = "not tested"
            if "n_significant" in each:
                found = (
                    f"{each['n_significant']} units drop significantly (family-wise p <= .05), "
                    f"least p {each['least_p']:.2g}"
                )
            names = ", ".join(dict.fromkeys(peak["place"] for peak in map_["peaks"][:5]))
            print(f"  {each['class']:<16}{found}{'; largest: ' + names if names else ''}")
    if told["space"] is None:
        print(f"\nspace of the maps: {told['space_note']}")
