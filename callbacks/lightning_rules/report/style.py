"""How every figure of a report looks: colours that colour-blind people tell apart, sizes, words and numbers on axes."""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INK = "#1b1f24"  # of words and axes; in a page it becomes the page's own ink, so that dark pages can be read
ROLES = {"train": "#0072b2", "validation": "#d55e00", "test": "#009e73", "other": INK}  # Okabe and Ito (2008)
OTHERS = (INK, "#a6568b", "#2d8cc4", "#9a7400")  # of curves that belong to no split, told apart by their dashes as well
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)))
RUNS = (INK, "#a2548c", "#2887bb", "#957000", "#4d7f2e", "#6457c6", "#b5476a", "#26807c")  # of runs that are compared
RAMP = ("#9fb0c1", "#7aa0c2", "#4a8cc0", "#1b6cab", "#0b487c")  # from little to much; in a dark page from dim to bright
GROUND = "#fefefe"  # behind words that stand on lines: in a page that of the figure
REST = "#b9bfc7"  # of all the others, without transparency: hundreds of thin lines would add up to black
RIGHT, WRONG = ROLES["train"], ROLES["validation"]
WIDTH = 4.5  # inches: 430 pixels of a page, so that words can still be read where it is shown on 360
SIZE, SMALL = 9.0, 8.2  # points
LINE, THIN = 1.6, 0.7
LETTER = 0.6  # of the size of a letter is its usual width
LONGEST = 300  # letters of anything that is written into a figure
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

SETTINGS: dict[str, Any] = {
    "font.size": SIZE,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.labelsize": SIZE,
    "axes.titlesize": SIZE,
    "axes.linewidth": THIN,
    "axes.unicode_minus": True,
    "lines.linewidth": LINE,
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "lightning-rules",
    "svg.image_inline": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw and save inside of it: the same figure on every machine, whatever its matplotlib is set to."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a letter that the font of PNG files does not have
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)  # type: ignore[arg-type,unused-ignore]  # newer ones type their keys
        yield


def new_figure(height: float, width: float = WIDTH) -> Any:
    """A figure on a canvas that needs no display; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144)
    FigureCanvasAgg(figure)
    return figure


def new_axes(figure: Any, left: float, bottom: float, right: float, top: float) -> Any:
    """Axes with these margins in inches: to lay them out by measuring every letter takes longer than to draw them."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2.5, width=THIN)
    return axes


def plain(text: object, longest: int = LONGEST) -> str:
    """Text that matplotlib shows letter by letter: on one line, without formulae, cut off in the middle where long."""
    words = "".join(_visible(letter) for letter in str(text)[: 4 * LONGEST])
    return shortened(words, longest).replace("$", r"\$")


def _visible(letter: str) -> str:
    if letter in "\n\r\t":
        return " "
    is_broken = unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn")  # no XML takes them all
    return "\N{REPLACEMENT CHARACTER}" if is_broken else letter


def shortened(text: str, longest: int) -> str:
    """Text of at most so many letters; of a longer one the beginning, and more of the end, which tells names apart."""
    if len(text) <= longest:
        return text
    tail = (2 * longest) // 3
    return f"{text[: longest - tail - 1]}…{text[len(text) - tail :]}"


def width_of(text: str, size: float = SMALL) -> float:
    """About how wide a text is, in inches."""
    letters = sum(1.8 if unicodedata.east_asian_width(letter) in "WF" else 1.0 for letter in text)
    return letters * LETTER * size / 72


def fitted(text: object, inches: float, size: float = SMALL) -> str:
    """The text as :func:`plain` gives it, cut off where it would be wider than this."""
    words, letters = plain(text), LONGEST
    while letters > 2 and (wide := width_of(words, size)) > inches:
        letters = max(2, min(letters - 1, int(len(words) * inches / wide) + 1))
        words = plain(text, letters)
    return words


def number(value: float | None) -> str:
    """A number in few letters, for axes, bars and tables."""
    if value is None or math.isnan(value):
        return "none"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e6 or size < 1e-4:
        digits, _, power = f"{value:.1e}".partition("e")
        digits = digits.removesuffix(".0")
        text = f"{digits}×10{str(int(power)).translate(SUPERSCRIPTS)}"
    elif value == int(value):
        text = f"{int(value):,}"
    else:
        text = f"{value:.3g}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", "−")


def power_of_ten(value: float) -> str:
    """A tick of a logarithmic axis: 10⁻³, and 0.1, 1 and 10 as they are."""
    power = round(math.log10(value)) if value > 0 else 0
    if -2 <= power <= 3 or not math.isclose(value, 10.0**power, rel_tol=1e-6):
        return number(value)
    return f"10{str(power).translate(SUPERSCRIPTS)}"


def finite(values: Sequence[float | None], positive: bool = False) -> list[float]:
    """Values as matplotlib takes them: NaN for what is missing, not finite, too large, or not on a logarithmic axis."""
    return [value + 0.0 if value is not None and _is_drawn(value, positive) else math.nan for value in values]


def _is_drawn(value: float, positive: bool) -> bool:
    return abs(value) < 1e150 and (not positive or value > 1e-150)


def around(value: float) -> tuple[float, float]:
    """The ends of an axis on which all values are the same: from zero on, so that nothing looks like a change."""
    if value == 0:
        return 0.0, 1.0
    return (0.0, 2 * value) if value > 0 else (2 * value, 0.0)


def widen(axes: Any, right: float) -> None:
    """Make the left margin as wide as the numbers of the y axis, and the right one as given, in inches."""
    ticks = [axes.yaxis.get_major_formatter()(value, None) for value in axes.get_yticks()]
    figure_width = axes.figure.get_size_inches()[0]
    left = max([0.3, *(0.16 + width_of(tick) for tick in ticks)])
    box = axes.get_position()
    axes.set_position((left / figure_width, box.y0, 1 - (left + right) / figure_width, box.height))


def set_scale(axes: Any, which: str, is_log: bool) -> None:
    """Make an axis (``"x"`` or ``"y"``) linear or logarithmic, with ticks in few letters and no formulae.

    Where curves have whole numbers on the x axis, such as steps and trials, its ticks are whole.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    if is_log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        low, high = axis.get_data_interval()
        decades = math.log10(high / low) if 0 < low < high < math.inf else 9.0
        steps = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(10, steps, numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, place: power_of_ten(value)))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        counted = {float(value) for line in axes.lines for value in line.get_xdata()} if which == "x" else set()
        is_whole = bool(counted) and all(value.is_integer() for value in counted)
        axis.set_major_locator(MaxNLocator(5, integer=is_whole))
        axis.set_major_formatter(FuncFormatter(lambda value, place: number(0.0 if abs(value) < 1e-12 else value)))
