"""How every figure looks and how it gets onto the page: colours, type, SVG and PNG."""

import base64
import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

INK, SOFT, FAINT, PAPER = "#1c2733", "#5c6b7a", "#d9dfe5", "#ffffff"
LEAK_INK = "#a4262c"

# Paul Tol's "muted" (colour-blind safe) for few classes, his discrete rainbow for many.
_FEW = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933")
_MANY = (
    "#882e72", "#1965b0", "#5289c7", "#7bafde", "#4eb265", "#90c987", "#a9b87a", "#d9c700",
    "#f6c141", "#f1932d", "#e8601c", "#dc050c", "#a5170e", "#72190e", "#42150a", "#777777",
    "#ba8db4", "#aa6f9e", "#994f88", "#d1bbd7",
)  # fmt: skip
_MODELS = ("#24557a", "#b0632b", "#4d7c52", "#7c5295", "#9a8426", "#2f8a8d", "#a34a6b", "#606c38")
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 11.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "emodecode",
    "path.simplify": True,
}
DOTS_PER_INCH = 72


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """Return one colour per class, the same in every figure."""
    if len(classes) <= len(_FEW):
        return dict(zip(classes, _FEW, strict=False))
    return {name: _MANY[i % len(_MANY)] for i, name in enumerate(classes)}


def model_colours(models: Sequence[str], *, dummies: Sequence[str] = ()) -> dict[str, str]:
    """Return one colour per model; models that see no data are grey."""
    palette = [*_MODELS, *(_lighter(colour) for colour in _MODELS)]
    real = [name for name in models if name not in dummies]
    colours = {name: palette[i % len(palette)] for i, name in enumerate(real)}
    return {name: colours.get(name, "#8a949e") for name in models}


def _lighter(colour: str) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + 0.42 * (255 - part)):02x}" for part in parts)


def shorten(text: str, length: int) -> str:
    """Cut a long name for a figure."""
    return text if len(text) <= length else text[: length - 1] + "…"


@contextlib.contextmanager
def drawn_style() -> Iterator[None]:
    """Apply the look of the report to what is drawn inside, and to nothing else."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def new_figure(width: float, height: float):
    """Return an empty figure of that many pixels, without any global state of matplotlib."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DOTS_PER_INCH, height / DOTS_PER_INCH), dpi=DOTS_PER_INCH)


def to_svg(figure, *, name: str, title: str) -> str:
    """Return the figure as an inline ``<svg>`` whose ids do not clash with those of others."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    width, height = (float(v) for v in re.findall(r'(?:width|height)="([\d.]+)pt"', text)[:2])
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text))
    used = {first or second for first, second in used}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r" ?font-family: [^;\"]+;?", "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    text = re.sub(r"<[^>]*>", lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m[0]), text)
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<title>.*?</title>", "", text, flags=re.S)
    text = re.sub(r">\s+<", "><", re.sub(r"\n\s*", " ", text))
    box = f"0 0 {width:g} {height:g}"
    head = (
        f'<svg class="drawn" viewBox="{box}" style="width:{width:g}px" role="img" '
        f'aria-label="{_escape(title)}">'
    )
    return head + text[text.index(">") + 1 :]


def to_png(figure, *, colours: int = 160, scale: float = 2.0) -> str:
    """Return the figure as a ``data:`` address of a PNG with few colours."""
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH * scale, metadata={"Software": None})
    image = Image.open(buffer).convert("RGB")
    # "maximum coverage" keeps colours that few pixels have: a small blob must not lose its sign
    few = image.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(small, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()


def grey_png(figure, *, scale: float = 1.6) -> str:
    """Return the figure as a ``data:`` address of a PNG of few colours whose greys stay grey.

    `to_png` chooses its colours among all pixels, which tints the anatomy where the map
    is empty. Here 56 greys stand apart from 200 colours.
    """
    from PIL import Image

    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH * scale, metadata={"Software": None})
    pixels = np.asarray(Image.open(buffer).convert("RGB"))
    tinted = np.ptp(pixels, axis=2) > 2
    levels = np.round(pixels[..., 1] / 255 * 55).astype(np.uint8)
    palette = np.repeat(np.round(np.arange(56) / 55 * 255).astype(np.uint8)[:, None], 3, axis=1)
    if tinted.any():
        few = Image.fromarray(pixels[tinted][None]).quantize(
            200, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        levels[tinted] = 56 + np.asarray(few)[0]
        chosen = np.array(few.getpalette(), dtype=np.uint8).reshape(-1, 3)[:200]
        palette = np.concatenate([palette, chosen])
    image = Image.fromarray(levels).convert("P")
    image.putpalette(palette.ravel().tolist())
    image.save(small, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()


def save_png(figure, path: Path, *, scale: float = 2.0) -> None:
    """Write the figure as a PNG file, under a temporary name first."""
    partial = path.with_name(path.name + ".partial")
    figure.savefig(
        partial,
        format="png",
        dpi=DOTS_PER_INCH * scale,
        facecolor=PAPER,
        bbox_inches="tight",
        metadata={"Software": None},
    )
    partial.replace(path)


def _escape(text: str) -> str:
    return (
        text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
    )
