"""The look that all figures share: settings, colours, legends and axes of matplotlib.

matplotlib comes with the extra `plots`; it is imported when the first figure is drawn.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

from baselines.errors import UsageError
from baselines.results.stats import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

# Okabe and Ito 2008: colours that colour-blind readers can tell apart, without yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
LINES = ("-", "--", ":", "-.")  # further groups repeat the colours with the next line style
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


def require_matplotlib() -> None:
    """Raise `UsageError` if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError("figures need matplotlib: pip install 'smacv2-suite[plots]'") from error


@contextmanager
def house_style(salt: str) -> Iterator[None]:
    """Draw and save in the house style.

    Args:
        salt: makes the ids in an SVG unique, so that one page can hold several.
    """
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        yield


def colour_of(index: int) -> str:
    """Return the colour of the group with this index."""
    return COLOURS[index % len(COLOURS)]


def line_of(index: int) -> str:
    """Return the line style of the group with this index."""
    return LINES[index // len(COLOURS) % len(LINES)]


# Legends -----------------------------------------------------------------------------------------


def group_handle(index: int, label: str, marker: str = "") -> "Line2D":
    """Return a group's entry in a legend: its line, or its marker if one is given."""
    from matplotlib.lines import Line2D

    style = "" if marker else line_of(index)
    return Line2D([], [], color=colour_of(index), linestyle=style, marker=marker, label=label)


def add_legend(figure: "Figure", handles: Sequence["Line2D"], characters: int) -> int:
    """Put a legend below the axes, in as many columns as fit; return the number of its lines.

    Args:
        figure: with a constrained layout.
        handles: the entries.
        characters: width of the figure, in characters of the legend.
    """
    widest = max(len(handle.get_label()) for handle in handles)
    columns = max(1, min(len(handles), characters // (widest + 6)))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return math.ceil(len(handles) / columns)


# Axes --------------------------------------------------------------------------------------------


def label_steps(axis: "Axes") -> None:
    """Label a horizontal axis with steps as 500k, 1M ..."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.xaxis.set_major_locator(MaxNLocator(5))


def label_logarithmic(axis: "Axis", values: Array) -> None:
    """Label a logarithmic axis with 1, 2, 5, 10 ..., or with powers of ten for a wide range."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    steps = (1.0, 2.0, 5.0) if values.max() < 100 * values.min() else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


# Saving ------------------------------------------------------------------------------------------


def rendered(figure: "Figure") -> dict[str, bytes]:
    """Return a figure as SVG and as PNG, by the ending of the file; its layout is then fixed."""
    vector, pixels = BytesIO(), BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None})
    figure.set_layout_engine("none")  # keep the layout: computing it takes most of the time
    figure.savefig(pixels, format="png", dpi=130)
    return {".svg": vector.getvalue(), ".png": pixels.getvalue()}
