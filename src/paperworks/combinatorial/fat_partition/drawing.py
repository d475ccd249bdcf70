"""Pictures of treemaps: a calm colour for every branch, outlines by depth, words where they fit."""

import re
from collections.abc import Callable
from functools import cache
from html import escape
from io import StringIO
from math import cos, radians, sin, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from numpy.typing import NDArray

from paperworks.combinatorial.fat_partition._labels import half_planes, largest_box, middle_place
from paperworks.combinatorial.fat_partition._tree import Tree
from paperworks.combinatorial.fat_partition.polygonal import PolygonalTreemap
from paperworks.combinatorial.fat_partition.rectangular import RectangularTreemap

Floats = NDArray[np.float64]
Color = tuple[float, float, float]

# Areas in square points, 1/72 inch: what is smaller is not drawn apart from its parent.
SMALLEST_DRAWN = 0.3
# Words smaller than this many points are not read.
SMALLEST_TEXT = 4.8
# The hue of the heaviest branch, and the step to the next: the golden angle keeps neighbours in weight apart.
FIRST_HUE, HUE_STEP = 245.0, 137.508


class _Scene(NamedTuple):
    """What is drawn: polygons in data units, and how many points one unit is."""

    tree: Tree
    polygons: list[Floats]
    areas: Floats
    leaf: NDArray[np.bool_]
    branches: NDArray[np.int64]
    top: int
    hues: dict[int, float]
    scale: float


def plot_treemap(
    model: PolygonalTreemap | RectangularTreemap,
    ax: Axes | None = None,
    *,
    title: str | None = None,
    labels: bool = True,
    format_weight: Callable[[float], str] | None = None,
) -> Axes:
    """Draw a fitted treemap.

    Every branch below the root has a colour, lighter with depth; outlines are wider for what is nearer to the root;
    a name stands where it fits into its polygon, as large as it fits, and is left out where it could not be read.

    Parameters
    ----------
    model : PolygonalTreemap or RectangularTreemap
        The treemap, fitted; boxes must have two dimensions.
    ax : Axes, optional
        Where to draw. None makes a figure of 10 inches' width, found as ``ax.figure``.
    title : str, optional
        Words above the picture; None stands for the root's name and the total. An empty string means no title.
    labels : bool, default True
        Whether names are written.
    format_weight : callable, optional
        Turns a weight into words, such as ``"3.2 MB"``.

    Returns
    -------
    Axes
        What was drawn on.

    Raises
    ------
    ValueError
        If the treemap's boxes do not have two dimensions.
    NotFittedError
        If the treemap is not fitted.
    TypeError
        If `model` is no treemap.

    References
    ----------
    Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to
    Visualization and Embeddings", arXiv 1009.1866.

    Examples
    --------
    >>> from paperworks.combinatorial import PolygonalTreemap, plot_treemap
    >>> treemap = PolygonalTreemap("greedy").fit({"animals": {"cats": 3, "dogs": 4}, "plants": {"trees": 9}})
    >>> axes = plot_treemap(treemap)
    >>> [text.get_text() for text in axes.texts][:2]
    ['plants', '9']
    """
    told = format_weight or _plain_number
    polygons, _ = _polygons(model)
    tree = model.tree_
    extent = np.ptp(polygons[0], axis=0)
    if ax is None:
        ax = _new_axes(*extent)
    (left, bottom), (right, up) = polygons[0].min(axis=0), polygons[0].max(axis=0)
    ax.set(xlim=(left, right), ylim=(bottom, up), aspect="equal")
    ax.set_axis_off()
    scene = _scene(model, ax)
    _draw_cells(ax, scene)
    if labels:
        _draw_labels(ax, scene, told)
    if title is None:
        title = "  ·  ".join(each for each in (str(tree.names[scene.top]), told(tree.weights[0])) if each)
    if title:
        ratios = model.aspect_ratios_
        count = int(tree.is_leaf.sum())
        small = f"{count:,} {'leaf' if count == 1 else 'leaves'}, aspect ratio at most {np.nanmax(ratios):.1f}"
        _draw_title(ax, title, small)
    return ax


def save_svg(model: PolygonalTreemap | RectangularTreemap, ax: Axes, path: Path, told: Callable[[float], str]) -> None:
    """Save the figure of `plot_treemap` as SVG, in which every cell tells its path and weight when pointed at."""
    scene = _scene(model, ax)
    buffer = StringIO()
    with rc_context({"svg.hashsalt": "paperworks", "svg.fonttype": "path"}):
        _figure(ax).savefig(buffer, format="svg", metadata={"Date": None})
    tips = (f"{escape(scene.tree.path(node))}: {told(scene.tree.weights[node])}" for node in _shown(scene).tolist())
    before, mark, after = buffer.getvalue().partition('<g id="cells">')
    inside, close, rest = after.partition("</g>")
    # matplotlib writes a collection whose polygons all differ as one path each, in order.
    inside = re.sub(r"(<path [^>]*?)/>", lambda found: f"{found[1]}><title>{next(tips)}</title></path>", inside)
    path.write_text(before + mark + inside + close + rest, encoding="utf-8")


def _scene(model: PolygonalTreemap | RectangularTreemap, ax: Axes) -> _Scene:
    polygons, areas = _polygons(model)
    extent, box = np.ptp(polygons[0], axis=0), ax.get_window_extent()
    scale = min(box.width / extent[0], box.height / extent[1]) * 72 / _figure(ax).dpi
    top = _first_branching(model.tree_)
    branches = _branches(model.tree_, top)
    hues = _hues(model.tree_, branches)
    return _Scene(model.tree_, polygons, areas * scale**2, model.tree_.is_leaf, branches, top, hues, scale)


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


def _polygons(model: Any) -> tuple[list[Floats], Floats]:
    from sklearn.utils.validation import check_is_fitted

    if not isinstance(model, (PolygonalTreemap, RectangularTreemap)):
        raise TypeError(f"model must be a PolygonalTreemap or RectangularTreemap, got {type(model).__name__}")
    check_is_fitted(model)
    if isinstance(model, PolygonalTreemap):
        return model.polygons_, model.areas_
    if model.boxes_.shape[2] != 2:
        raise ValueError(f"model must have boxes of 2 dimensions to be drawn, got {model.boxes_.shape[2]}")
    (left, bottom), (right, top) = model.boxes_.transpose(1, 2, 0)
    corners = np.stack([left, bottom, right, bottom, right, top, left, top], axis=1).reshape(-1, 4, 2)
    nothing = np.isnan(left)
    polygons = [np.empty((0, 2)) if none else each for none, each in zip(nothing.tolist(), corners, strict=True)]
    return polygons, np.where(nothing, 0.0, (right - left) * (top - bottom))


def _new_axes(width: float, height: float) -> Axes:
    # Margins of 0.15 inch, and room for the title.
    inner = 9.7
    tall = min(max(inner * height / width, 3.0), 14.0)
    figure = Figure(figsize=(10, tall + 0.65), dpi=150, facecolor="white")
    whole = tall + 0.65
    return figure.add_axes((0.015, 0.15 / whole, 0.97, tall / whole))


def _first_branching(tree: Tree) -> int:
    """The node nearest to the root with several children, whose names are worth a colour each."""
    n_children = np.bincount(tree.parents[1:], minlength=len(tree))
    several = np.flatnonzero(n_children != 1)
    return int(several[0])


def _branches(tree: Tree, top: int) -> NDArray[np.int64]:
    """The child of `top` that every node belongs to; `top` for itself and what is above it."""
    branches = np.full(len(tree), top)
    for node, parent in enumerate(tree.parents[top + 1 :].tolist(), top + 1):
        branches[node] = node if parent == top else branches[parent]
    return branches


def _hues(tree: Tree, branches: NDArray[np.int64]) -> dict[int, float]:
    found = np.unique(branches)
    by_weight = found[np.argsort(-tree.weights[found], kind="stable")]
    return {int(branch): (FIRST_HUE + HUE_STEP * place) % 360 for place, branch in enumerate(by_weight[1:])}


def _color(lightness: float, chroma: float, hue: float) -> Color:
    """A colour by perceived lightness, chroma and hue (OKLCH), in sRGB."""
    a, b = chroma * cos(radians(hue)), chroma * sin(radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    red, green, blue = (
        min(1.0, max(0.0, 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055)) for c in linear
    )
    return red, green, blue


def _fill(scene: _Scene, node: int) -> Color:
    hue = scene.hues.get(int(scene.branches[node]))
    if hue is None:
        return 0.93, 0.93, 0.93
    # Of an inner node only what lies between cells too small to draw is seen: it has the shade of its children.
    below = int(scene.tree.depths[node] - scene.tree.depths[scene.top]) - int(scene.leaf[node])
    # Siblings differ a little, so that cells of one depth can be told apart.
    shade = 0.012 * (node % 3 - 1)
    return _color(min(0.76 + 0.045 * below, 0.92) + shade, max(0.095 - 0.014 * below, 0.035), hue)


def _shown(scene: _Scene) -> NDArray[np.int64]:
    """Nodes that are drawn; a child without siblings covers its parent, and only the lowest of them is."""
    n_children = np.bincount(scene.tree.parents[1:], minlength=len(scene.tree))
    return np.flatnonzero((scene.areas >= SMALLEST_DRAWN) & (n_children != 1))


def _draw_cells(ax: Axes, scene: _Scene) -> None:
    shown = _shown(scene)
    polygons = [scene.polygons[node] for node in shown]
    colors = [_fill(scene, node) for node in shown]
    cells = PolyCollection(polygons, facecolors=colors, edgecolors="none", linewidths=0, zorder=1)
    cells.set_gid("cells")
    ax.add_collection(cells, autolim=False)
    below = scene.tree.depths[shown] - scene.tree.depths[scene.top]
    for depth in range(int(below.max(initial=0)), 0, -1):
        here = np.flatnonzero(below == depth)
        # Never wider than a small share of the cell: many small cells stay a texture, not a white patch.
        widths = np.minimum(2.8 * 0.55 ** (depth - 1), 0.055 * np.sqrt(scene.areas[shown[here]]))
        outlines = PolyCollection(
            [polygons[k] for k in here],
            facecolors="none",
            edgecolors="white",
            linewidths=widths,
            joinstyle="round",
            zorder=2 + 1 / depth,
        )
        ax.add_collection(outlines, autolim=False)


class _Label(NamedTuple):
    """A word with the size it may have: as large as it fits, up to `largest`."""

    node: int
    text: str
    weight: str
    largest: float
    bold: bool


def _draw_labels(ax: Axes, scene: _Scene, told: Callable[[float], str]) -> None:
    taken: list[tuple[float, float, float, float]] = []
    for label in _wanted_labels(scene, told):
        polygon = scene.polygons[label.node] * scene.scale
        for text in _shortened(label.text):
            wide, tall = _width(text, label.bold) + 0.7, 1.4
            if label.weight:
                wide, tall = max(wide, 0.72 * _width(label.weight, False) + 0.7), 2.3
            x, y, size = _free_place(polygon, wide, tall, label.largest, taken)
            if size >= SMALLEST_TEXT:
                taken.append((x, y, size * wide, size * tall))
                _write(ax, scene, label._replace(text=text), x, y, size)
                break


def _shortened(text: str) -> list[str]:
    """The text, and its beginnings for cells where the whole does not fit."""
    return [text, *(text[:n].rstrip() + "\u2026" for n in (14, 9) if n + 2 < len(text))]


def _wanted_labels(scene: _Scene, told: Callable[[float], str]) -> list[_Label]:
    """Branches first, then inner nodes that are large, then leaves, each kind by area."""
    tree, leaf = scene.tree, scene.leaf
    below = tree.depths - tree.depths[scene.top]
    # A word needs about this many square points.
    large = np.flatnonzero((scene.areas > 1.3 * SMALLEST_TEXT**2) & (below > 0))
    n_children = np.bincount(tree.parents[1:], minlength=len(tree))
    whole = scene.areas[0]
    found: list[tuple[int, float, _Label]] = []
    for node in large.tolist():
        side, text = sqrt(scene.areas[node]), _one_line(str(tree.names[node]))
        if not text:
            continue
        if below[node] == 1:
            label = _Label(node, text, told(tree.weights[node]), min(max(0.115 * side, 6.5), 20.0), True)
        elif leaf[node]:
            label = _Label(node, text, "", min(max(0.11 * side, SMALLEST_TEXT), 9.0), False)
        elif n_children[node] > 1 and scene.areas[node] > 0.012 * whole:
            label = _Label(node, text, "", min(max(0.10 * side, 6.0), 12.0), True)
        else:
            continue
        found.append((int(leaf[node] and below[node] > 1) + int(below[node] > 1), -side, label))
    return [label for *_, label in sorted(found, key=lambda each: each[:2])]


def _free_place(
    polygon: Floats, width: float, height: float, largest: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, float]:
    """Where and how large a box fits into a polygon beside the boxes that are taken: on the best side of each."""
    planes = half_planes(polygon)
    size = largest_box(planes, width, height)[2]
    low, high = polygon.min(axis=0), polygon.max(axis=0)
    for cx, cy, w, h in taken:
        outside = cx + w / 2 < low[0] or cx - w / 2 > high[0] or cy + h / 2 < low[1] or cy - h / 2 > high[1]
        if size < SMALLEST_TEXT:
            break
        if outside or largest_box(np.vstack([planes, _sides(cx, cy, w, h)]), 1.0, 1.0)[2] <= 0:
            continue
        beside = [np.vstack([planes, side]) for side in -_sides(cx, cy, w, h)]
        sizes = [largest_box(each, width, height)[2] for each in beside]
        size, planes = max(sizes), beside[int(np.argmax(sizes))]
    size = min(size, largest)
    x, y = middle_place(planes, 0.999 * size * width, 0.999 * size * height)
    return x, y, size


def _sides(x: float, y: float, width: float, height: float) -> Floats:
    """Half-planes of an upright box."""
    half_width, half_height = width / 2, height / 2
    return np.array(
        [[1.0, 0, x + half_width], [-1.0, 0, half_width - x], [0, 1.0, y + half_height], [0, -1.0, half_height - y]]
    )


def _write(ax: Axes, scene: _Scene, label: _Label, x: float, y: float, size: float) -> None:
    hue = scene.hues[int(scene.branches[label.node])]
    ink = _color(0.30 if label.bold else 0.38, 0.07, hue)
    halo = [withStroke(linewidth=0.16 * size, foreground=(*_fill(scene, label.node), 0.75))]
    up = 0.42 * size if label.weight else 0.0
    style: dict[str, Any] = {
        "ha": "center",
        "va": "center_baseline",
        "color": ink,
        "path_effects": halo,
        "zorder": 5,
        "clip_on": True,
    }
    place = (x / scene.scale, (y + up) / scene.scale)
    ax.text(*place, label.text, fontsize=size, fontweight="bold" if label.bold else "normal", **style)
    if label.weight:
        place = (x / scene.scale, (y - 0.62 * size) / scene.scale)
        ax.text(*place, label.weight, fontsize=0.72 * size, **style)


def _draw_title(ax: Axes, title: str, small: str) -> None:
    shared: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "va": "bottom",
        "annotation_clip": False,
    }
    ax.annotate(_one_line(title), (0, 1), (0, 9), fontsize=16, fontweight="bold", color="0.16", **shared)
    ax.annotate(small, (1, 1), (0, 10), fontsize=9.5, color="0.45", ha="right", **shared)


def _one_line(text: str) -> str:
    """Dollar signs are no formulas here."""
    return " ".join(text.split()).replace("$", r"\$")


@cache
def _width(text: str, bold: bool) -> float:
    """Width of a line at size 1."""
    font = FontProperties(weight="bold" if bold else "normal")
    x = TextPath((0, 0), text, size=100, prop=font).vertices[:, 0]
    return float(np.ptp(x)) / 100 if len(x) else 0.0


def _plain_number(weight: float) -> str:
    return f"{weight:,.0f}" if weight >= 1000 or weight == int(weight) else f"{weight:.3g}"
