"""What the report may say: one form for every number, and claims only where the audit allows."""

import math
from collections.abc import Sequence

MISSING = "n/a"
LEAK_MARK = "leaks: see audit"
SYMBOLS = {"clean": "✓", "caution": "!", "leak": "✕", "note": "i"}
HEADLINES = {
    "clean": "Clean: the audit found no way by which test data could reach the training",
    "caution": "Caution: the audit found no leak, but reasons to doubt the scores",
    "leak": "Leak: test data reached the training. No score below can be interpreted.",
    "control": "Leak: a control scored above chance where there is nothing to find. "
    "No score below can be interpreted.",
}
RANDOM = "These labels are random: every score above chance is an artefact."
FINGERPRINT = (
    "That a classifier tells these classes apart does not make the pattern that it uses a "
    "fingerprint of an emotion: other patterns may do as well, and the pattern need not be present "
    "in each single instance."
)
PORTRAYED = (
    "The labels are emotions that observers saw portrayed in the stimulus, not emotions that the "
    "scanned subjects reported to feel."
)


def format_number(value: float | None, *, digits: int = 2) -> str:
    """``.53``, ``−.04``, ``1.00``; ``n/a`` where there is no value."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) != 0 else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def format_short(value: float) -> str:
    """Three significant digits of a value on any scale: ``.0512``, ``−1.30``, ``2.10e−06``."""
    text = f"{value:#.3g}".rstrip(".").replace("-", "−")
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def format_interval(score: dict | None) -> str:
    """``[.49, .57]`` of a score with ``low`` and ``high``; ``n/a`` where there is none."""
    low, high = (format_number((score or {}).get(key)) for key in ("low", "high"))
    return MISSING if MISSING in (low, high) else f"[{low}, {high}]"


def format_p(p: float | None, *, smallest_p: float | None = None) -> str:
    """``p = .012``; ``p < .001`` only where the test can give so small a value."""
    if p is None or not math.isfinite(p):
        return MISSING
    if p < 0.001:
        if smallest_p is None or smallest_p < 0.001:
            return "p < .001"
        p = smallest_p
    if 0.05 < p < 0.0505:
        return "p > .050"
    return f"p = {format_number(p, digits=3)}"


def format_count(count: int | float | None) -> str:
    """``12 345`` with a narrow space; ``n/a`` where there is none."""
    return MISSING if count is None else f"{int(count):,}".replace(",", "\u202f")


def count_of(count: int, noun: str, plural: str | None = None) -> str:
    """``1 run``, ``2 runs``."""
    return f"{format_count(count)} {noun if count == 1 else plural or noun + 's'}"


def join_words(words: Sequence[str], *, last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    words = [str(word) for word in words]
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def format_difference(pair: dict) -> str:
    """``.12 [.03, .21]``; with three digits where two would show a zero."""
    values = [pair.get(key) for key in ("difference", "low", "high")]
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    digits = 3 if known and min(known) < 0.005 else 2
    size, low, high = (format_number(value, digits=digits) for value in values)
    return size if MISSING in (low, high) else f"{size} [{low}, {high}]"


def format_probability(value: float | None) -> str:
    """``.42``; never 0 or 1: ``< .01`` and ``> .99`` instead."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 0.005:
        return "< .01"
    return "> .99" if value > 0.995 else format_number(value)


def format_share(value: float | None) -> str:
    """``100 %``, ``4.2 %``; neither 0 nor 100 unless exactly so."""
    if value is None or not math.isfinite(value):
        return MISSING
    percent = 100 * value
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    whole = abs(percent - round(percent)) < 0.05 or (10 <= percent <= 99)
    return f"{percent:.0f} %" if whole else f"{percent:.1f} %"


def as_sentence(text: str) -> str:
    """Begin with a capital, end with a full stop."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) or not text else text + "."


def cell_p(p: float | None, *, smallest_p: float | None = None) -> str:
    """``.012`` or ``< .001``: `format_p` for a column that is headed p."""
    return format_p(p, smallest_p=smallest_p).removeprefix("p = ").removeprefix("p ")


def format_seconds(seconds: float | None) -> str:
    """``84 s``, ``12 min``, ``3.1 h``."""
    if seconds is None:
        return MISSING
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def claim(
    score: dict | None, *, verdict: str, p_corrected: float | None = None, n_tested: int = 1
) -> str:
    """Return what may be said of a score: chance is beaten only with p <= .05 and a clean audit.

    With several decoders it is the p corrected for their number that counts.
    """
    if verdict == "leak":
        return "cannot be interpreted: the audit found a leak"
    score = score or {}
    smallest = score.get("p_smallest")
    if smallest is not None and smallest > 0.05:
        return (
            "cannot be tested: so few blocks can be labelled in other ways that p is never below "
            f"{format_number(smallest, digits=3)}"
        )
    p, value, chance = score.get("p"), score.get("value"), score.get("chance")
    if p is None or value is None:
        return "not tested against chance"
    shown = format_p(p, smallest_p=score.get("p_smallest"))
    if p_corrected is not None and n_tested > 1:
        p = p_corrected
        shown += f"; {format_p(p)} corrected for {n_tested} decoders"
    if p > 0.05 or (chance is not None and value <= chance):
        return f"not distinguishable from chance ({shown})"
    if verdict != "clean":
        return f"no claim: the audit advises caution ({shown})"
    return f"above chance ({shown})"
