"""RDMs on the page: matrices whose colours hold every value, the noise ceiling, Mantel tests."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from emodecode.report.drawing import FAINT, INK, SOFT, drawn_style, new_figure, shorten, to_svg
from emodecode.report.wording import (
    as_sentence,
    cell_p,
    format_count,
    format_interval,
    format_number,
    format_p,
    format_share,
)

MOST_PRINTED = 8
"""Conditions up to which the values are printed in the cells."""
INKS = {"layer": "#24557a", "model": "#b0632b", "brain": INK}
_WIDTH, _WIDEST, _ROW = 720, 980, 34
_BAR, _HEAD, _GAP, _BAR_ROOM = 9, 26, 26, 88
_POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def describe_similarity(rsa: dict[str, Any] | None) -> dict[str, Any] | None:
    """Gather what the page says about RDMs, pictures included; None where there are none.

    Parameters
    ----------
    rsa : dict or None
        ``geometry.json["rsa"]``.

    Returns
    -------
    dict or None
        Only ``refused`` (the reason) where nothing could be compared; else ``groups`` of RDMs
        (``title svg rdms``), ``chart`` (SVG or None), ``ceiling`` (``refused`` or ``lower upper p
        sentence``), ``rows`` of the comparison, ``mantel`` rows, ``pearson`` (a row has a Pearson
        p), ``n_pairs``, ``notes`` and ``sentence``.
    """
    if rsa is None:
        return None
    if rsa.get("refused"):
        return {"refused": as_sentence(rsa["refused"])}
    conditions = list(rsa["conditions"])
    rdms = [_describe_rdm(rdm, conditions) for rdm in rsa.get("rdms") or ()]
    ceiling = _describe_ceiling(rsa.get("ceiling"))
    comparison = rsa.get("comparison") or []
    kinds = {rdm["name"]: rdm["kind"] for rdm in rdms}
    mantel = [_describe_mantel(test) for test in rsa.get("mantel") or ()]
    return {
        "refused": None,
        "conditions": conditions,
        "groups": _group(rdms, conditions),
        "chart": draw_comparison(comparison, kinds, ceiling=ceiling) if comparison else None,
        "ceiling": ceiling,
        "rows": [_describe_row(row, kinds) for row in comparison],
        "mantel": mantel,
        "pearson": any(row["pearson"] is not None for row in mantel),
        "n_pairs": len(conditions) * (len(conditions) - 1) // 2,
        "notes": [as_sentence(note) for note in rsa.get("notes") or ()],
        "sentence": as_sentence(rsa.get("sentence") or ""),
    }


def colour_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of a colour scale that holds every value: 0 to max, or symmetric about 0.

    Cross-validated distances can be negative; their scale is symmetric. NaN is left out.
    """
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    highest = float(np.abs(known).max()) if len(known) else 0.0
    if highest == 0:
        return 0.0, 1.0
    return (-highest, highest) if known.min() < 0 else (0.0, highest)


def draw_rdms(rdms: Sequence[dict[str, Any]], conditions: Sequence[str], *, name: str) -> str:
    """Return RDMs as SVG: the same order of conditions, each with a colour scale of its own.

    Parameters
    ----------
    rdms : sequence of dict
        ``name distance values limits alt``; values of shape (n_conditions, n_conditions), limits
        as `colour_limits` returns them.
    conditions : sequence of str
    name : str
        Makes the ids of the SVG unique on the page.
    """
    n = len(conditions)
    side = n * (36 if n <= MOST_PRINTED else max(9.0, 190 / n))
    shown = [shorten(condition, 12) for condition in conditions]
    size = 10.5 if n <= MOST_PRINTED else float(np.clip(0.8 * side / n, 7, 10))
    margin = 8 + size * max(sum(0.8 if c.isupper() else 0.62 for c in text) for text in shown)
    column, row = side + _BAR_ROOM, side + _HEAD
    columns = max(1, min(len(rdms), int((_WIDEST - margin) // column)))
    n_rows = math.ceil(len(rdms) / columns)
    wide = margin + columns * column
    high = n_rows * row + (n_rows - 1) * _GAP + margin + 4
    with drawn_style():
        figure = new_figure(wide, high)
        for k, rdm in enumerate(rdms):
            x = margin + (k % columns) * column
            y = high - (k // columns) * (row + _GAP) - row
            axes = figure.add_axes((x / wide, y / high, side / wide, side / high))
            image = _draw_matrix(axes, rdm, side / n)
            title = shorten(rdm["name"].removeprefix(f"{rdm.get('of')}: "), int(column / 7.4))
            place = axes.transAxes
            axes.text(0, 1 + 8 / side, title, transform=place, weight="bold", fontsize=11.5)
            last = k + columns >= len(rdms)
            axes.set_xticks(range(n), shown if last else [""] * n, rotation=90, fontsize=size)
            first = k % columns == 0
            axes.set_yticks(range(n), shown if first else [""] * n, fontsize=size)
            axes.tick_params(length=0, colors=INK, pad=3)
            bar = figure.add_axes(((x + side + 7) / wide, y / high, _BAR / wide, side / high))
            _draw_bar(figure, bar, image, rdm, side)
        title = "; ".join(rdm["alt"] for rdm in rdms)
        return to_svg(figure, name=name, title=title)


def draw_comparison(
    comparison: Sequence[dict[str, Any]],
    kinds: dict[str, str],
    *,
    ceiling: dict[str, Any] | None,
) -> str:
    """Return the correlation of every RDM with the subjects' as SVG, with the noise ceiling.

    Parameters
    ----------
    comparison : sequence of dict
        ``model r low high``, as in ``geometry.json``.
    kinds : dict of str -> str
        Kind of each RDM: ``layer`` and ``model`` have colours of their own.
    ceiling : dict or None
        The band is drawn only where both its ends are numbers.
    """
    names = [shorten(row["model"], 26) for row in comparison]
    left = 22 + 7.2 * max(map(len, names))
    row_height = _ROW if len(names) <= 16 else 22
    height = 28 + 46 + row_height * len(names)
    band = _band(ceiling)
    ends = [row.get(key) for row in comparison for key in ("r", "low", "high")]
    known = [0.0, *(band or ()), *(e for e in ends if e is not None and math.isfinite(e))]
    pad = 0.06 * max(max(known) - min(known), 0.1)
    with drawn_style():
        figure = new_figure(_WIDTH, height)
        box = (left / _WIDTH, 46 / height, 1 - (left + 150) / _WIDTH, 1 - 74 / height)
        axes = figure.add_axes(box)
        axes.set(xlim=(min(known) - pad, max(known) + pad), ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", colors=INK, labelsize=12)
        axes.axvline(0, color=SOFT, lw=1, zorder=1)
        place = axes.get_yaxis_transform()
        if band:
            axes.axvspan(*band, color="#c9d1d9", lw=0, alpha=0.75, zorder=0)
            axes.text(
                sum(band) / 2, 1 + 6 / (row_height * len(names)), "noise ceiling", color=SOFT,
                transform=axes.get_xaxis_transform(), ha="center", fontsize=10.5,
            )  # fmt: skip
        for k, row in enumerate(comparison):
            axes.axhline(k + 0.5, color=FAINT, lw=0.7, zorder=0)
            _draw_point(axes, k, row, INKS.get(kinds.get(row["model"], "model"), INK))
            text = f"{format_number(row.get('r'))}  {format_interval(row)}".removesuffix("  n/a")
            axes.text(1.03, k, text, transform=place, va="center")
        axes.set_xlabel("correlation with the subjects' RDMs, mean and 95 % interval")
        _number_ticks(axes)
        return to_svg(figure, name="rsa", title=_say_comparison(comparison, band))


def _draw_point(axes, k: int, row: dict[str, Any], ink: str) -> None:
    if row.get("low") is not None and row.get("high") is not None:
        axes.hlines(k, row["low"], row["high"], color=ink, lw=2.6, zorder=3)
    if row.get("r") is not None:
        axes.plot(row["r"], k, "o", ms=9, color=ink, mec="white", zorder=4)


def _number_ticks(axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))


def _draw_matrix(axes, rdm: dict[str, Any], cell: float):
    from matplotlib import colormaps

    values, (low, high) = rdm["values"], rdm["limits"]
    colours = colormaps["RdBu_r" if low < 0 else "Blues"].with_extremes(bad="#e7e7e7")
    shown = np.ma.masked_invalid(values)
    image = axes.imshow(shown, cmap=colours, vmin=low, vmax=high, interpolation="none")
    axes.spines[:].set_visible(False)
    n = len(values)
    axes.set_xticks(np.arange(n - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(n - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2 if cell > 20 else 0.8)
    axes.tick_params(which="minor", length=0)
    if n > MOST_PRINTED:
        return image
    for i, j in np.ndindex(n, n):
        if i == j:
            continue
        value = values[i, j]
        text = format_number(value / 10 ** rdm["power"])
        red, green, blue, _ = colours(image.norm(value)) if np.isfinite(value) else (1, 1, 1, 1)
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
        axes.text(j, i, text, ha="center", va="center", fontsize=10, color="white" if dark else INK)
    return image


def _draw_bar(figure, axes, image, rdm: dict[str, Any], side: float) -> None:
    """A colour bar with its ends, its zero and the name of the distance."""
    figure.colorbar(image, cax=axes)
    low, high = rdm["limits"]
    scale = 10 ** rdm["power"]
    places = [low, 0.0, high] if low < 0 else [0.0, high / 2, high]
    axes.set_yticks(places, [format_number(place / scale) if place else "0" for place in places])
    axes.tick_params(labelsize=9.5, length=2, pad=2)
    axes.spines[:].set_visible(False)
    factor = f" (×10{str(rdm['power']).translate(_POWERS)})" if rdm["power"] else ""
    name = shorten(rdm["distance"], max(6, int(side / 5.8) - len(factor))) + factor
    axes.text(
        1 + 46 / _BAR, 0.5, name, transform=axes.transAxes, color=SOFT, fontsize=10,
        rotation=90, ha="center", va="center",
    )  # fmt: skip


def _describe_rdm(rdm: dict[str, Any], conditions: list[str]) -> dict[str, Any]:
    values = np.array(rdm["values"], dtype=float).reshape(len(conditions), len(conditions))
    limits = colour_limits(values)
    power = math.floor(math.log10(limits[1]))
    name = rdm["name"]
    return {
        "name": name,
        "kind": rdm["kind"],
        "of": rdm.get("of") or "",
        "distance": (rdm.get("distance") or "distance").replace(" - ", " − "),
        "values": values,
        "limits": limits,
        "power": power if power < -1 or power > 1 else 0,
        "sentence": as_sentence(rdm.get("sentence") or ""),
        "alt": _say_rdm(name, values, conditions),
    }


def _say_rdm(name: str, values: np.ndarray, conditions: list[str]) -> str:
    """Name the nearest and the farthest pair, for those who cannot see the matrix."""
    rows, columns = np.triu_indices(len(conditions), k=1)
    own = values[rows, columns]
    if not np.isfinite(own).any():
        return f"RDM {name}: no values"
    ends = []
    for word, k in (("nearest", np.nanargmin(own)), ("farthest", np.nanargmax(own))):
        pair = f"{conditions[rows[k]]} and {conditions[columns[k]]}"
        ends.append(f"{word} {pair} ({own[k]:.3g})".replace("-", "−"))
    return f"RDM {name}: {', '.join(ends)}"


def _group(rdms: list[dict[str, Any]], conditions: list[str]) -> list[dict[str, Any]]:
    """Brain and models together, then the layers of each decoder."""
    first = [rdm for rdm in rdms if rdm["kind"] == "brain"]
    first += [rdm for rdm in rdms if rdm["kind"] == "model"]
    decoders = dict.fromkeys(rdm["of"] for rdm in rdms if rdm["kind"] == "layer")
    groups = [("Brain and models", first)] if first else []
    groups += [
        (f"Layers of {of}" if of else "Layers", [r for r in rdms if (r["kind"], r["of"]) == own])
        for of in decoders
        for own in [("layer", of)]
    ]
    return [
        {
            "title": title,
            "svg": draw_rdms(own, conditions, name=f"rdms{k}"),
            "rdms": own,
            "sentences": [(rdm["name"], rdm["sentence"]) for rdm in own if rdm["sentence"]],
        }
        for k, (title, own) in enumerate(groups)
    ]


def _describe_ceiling(ceiling: dict[str, Any] | None) -> dict[str, Any] | None:
    if ceiling is None:
        return None
    if ceiling.get("refused"):
        return {"refused": as_sentence(ceiling["refused"])}
    return {
        "refused": None,
        "lower": ceiling.get("lower"),
        "upper": ceiling.get("upper"),
        "p": format_p(ceiling.get("p")),
        "sentence": as_sentence(ceiling.get("sentence") or ""),
    }


def _band(ceiling: dict[str, Any] | None) -> tuple[float, float] | None:
    ends = [(ceiling or {}).get(key) for key in ("lower", "upper")]
    known = [float(end) for end in ends if end is not None and math.isfinite(end)]
    return (known[0], known[1]) if len(known) == 2 else None


def _describe_row(row: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    return {
        "name": row["model"],
        "colour": INKS.get(kinds.get(row["model"], "model"), INK),
        "r": row.get("r"),
        "interval": format_interval(row),
        "p": cell_p(row.get("p")),
        "p_holm": cell_p(row.get("p_holm")),
        "share": format_share(row.get("share_of_ceiling")).replace("-", "−"),
    }


def _describe_mantel(test: dict[str, Any]) -> dict[str, Any]:
    own = {"one": test["one"], "other": test["other"], "pearson": None}
    if test.get("refused"):
        return own | {"refused": as_sentence(test["refused"])}
    pearson = test.get("pearson_p")
    exact = test.get("exact")
    count = format_count(test.get("n_relabellings"))
    return own | {
        "refused": None,
        "r": test.get("r"),
        "p": cell_p(test.get("p"), smallest_p=test.get("p_smallest")),
        "p_smallest": cell_p(test.get("p_smallest")),
        "relabellings": count if exact is None else f"{'all ' if exact else 'random '}{count}",
        "pearson": None if pearson is None else cell_p(pearson),
        "sentence": as_sentence(test.get("sentence") or ""),
    }


def _say_comparison(comparison: Sequence[dict[str, Any]], band) -> str:
    rows = [
        f"{row['model']} {format_number(row.get('r'))} {format_interval(row)}" for row in comparison
    ]
    ends = "not known" if band is None else " to ".join(format_number(end) for end in band)
    return f"Correlation with the subjects' RDMs: {'; '.join(rows)}. Noise ceiling {ends}"
