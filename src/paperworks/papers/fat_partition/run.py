"""Command: a hierarchy or a folder's sizes as a picture of nested polygons."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paperworks._files import InputError, read_array
from paperworks.combinatorial.fat_partition._tree import Tree, read_tree, tree_from_parents

KINDS = (".json", ".csv", ".npy")
Shape = Literal["ellipse", "rectangle", "square", "hexagon"]


def run(
    *files: Path,
    out: Path,
    method: Literal["greedy", "angular"] = "greedy",
    shape: Shape = "ellipse",
    n_candidates: int = 16,
    title: str | None = None,
) -> dict[str, Any]:
    """Draw a weighted tree, such as the sizes of a folder's files, as nested polygons.

    Parameters
    ----------
    files : Path
        One tree: a folder, whose files weigh their bytes; a .json of nested objects {name: weight or object}, or of
        objects with "name", "children" and "value"; a .csv of lines parent,child,weight, the weight of inner nodes
        optional; a SciPy linkage in .npy. Without files: the Python modules of scikit-learn.
    out : Path
        Folder for the results: picture.png, picture.svg (point at a cell to read its name), cells.csv, polygons.json.
    method : {"greedy", "angular"}, default "greedy"
        How cuts are chosen: for the fattest pieces, or along the widest gap between the directions of edges.
    shape : {"ellipse", "rectangle", "square", "hexagon"}, default "ellipse"
        Outline of the whole.
    n_candidates : int, default 16
        Directions that the greedy method tries for every cut.
    title : str, optional
        Words above the picture; the root's name when not given.

    Returns
    -------
    dict
        Number of nodes and leaves, total weight, and aspect ratios.
    """
    from paperworks.combinatorial import PolygonalTreemap, plot_treemap
    from paperworks.combinatorial.fat_partition.drawing import save_svg

    tree, used, told = _tree(files)
    model = PolygonalTreemap(method, n_candidates, _outline(shape)).fit(tree)
    words = None if title is None else f"{title}  ·  {told(tree.weights[0])}"
    axes = plot_treemap(model, title=words, format_weight=told)
    axes.figure.savefig(out / "picture.png", dpi=200)
    save_svg(model, axes, out / "picture.svg", told)
    paths = [tree.path(node) for node in range(len(tree))]
    with (out / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        columns = (model.node_depth_, tree.weights, model.areas_, model.aspect_ratios_)
        rows = zip(paths, *(column.tolist() for column in columns), strict=True)
        csv.writer(file).writerows([("path", "depth", "weight", "area", "aspect_ratio"), *rows])
    with (out / "polygons.json").open("w", encoding="utf-8") as file:
        json.dump([{"path": path, "polygon": p.tolist()} for path, p in zip(paths, model.polygons_, strict=True)], file)
    inner = model.aspect_ratios_[1:][~np.isnan(model.aspect_ratios_[1:])]
    leaves = model.aspect_ratios_[tree.is_leaf & ~np.isnan(model.aspect_ratios_)]
    return {
        "input": f"{used} ({len(tree):,} nodes)",
        "n_leaves": int(tree.is_leaf.sum()),
        "depth": int(tree.depths.max()),
        "total": told(tree.weights[0]),
        "largest_aspect_ratio": float(inner.max()) if len(inner) else None,
        "mean_aspect_ratio_of_leaves": float(leaves.mean()),
        "nodes_without_polygon": int(np.isnan(model.aspect_ratios_).sum()),
        "method": method,
    }


def _tree(files: tuple[Path, ...]) -> tuple[Tree, str, Callable[[float], str]]:
    """The tree, what it is, and how its weights are told."""
    if not files:
        return read_tree(_scikit_learn()), "the Python modules of scikit-learn, by size", _bytes
    if len(files) > 1:
        raise InputError(f"one tree, got {len(files)} files: {', '.join(path.name for path in files)}")
    path = files[0]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return read_tree(path), f"files below {path}, by size", _bytes
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: a folder, {', '.join(KINDS)}")
    readers = {".json": _from_json, ".csv": _from_csv, ".npy": lambda path: read_tree(read_array(path))}
    try:
        tree = readers[path.suffix.lower()](path)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None
    return tree, path.name, _number


def _scikit_learn() -> dict[str, Any]:
    import sklearn

    root = Path(sklearn.__file__).parent
    modules: dict[str, Any] = {}
    for path in sorted(root.rglob("*.py")):
        *folders, name = path.relative_to(root).parts
        inside = modules
        for folder in folders:
            inside = inside.setdefault(folder, {})
        inside[name] = path.stat().st_size
    return {"scikit-learn": modules}


def _from_json(path: Path) -> Tree:
    try:
        stored = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise InputError(
            f"{path}: is nested too deeply for JSON; a .csv of parent,child,weight can be deeper"
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as .json: {error}") from None
    if not isinstance(stored, dict):
        raise InputError(f"{path}: must hold an object {{name: weight or object}}, got a {type(stored).__name__}")
    return _from_children(stored) if isinstance(stored.get("children"), list) else read_tree(stored)


def _from_children(root: dict[str, Any]) -> Tree:
    """Objects with name, children and value, as many drawing libraries take them."""
    names: list[str] = []
    parents: list[int] = []
    weights: list[float] = []
    stack = [(root, -1)]
    while stack:
        node, parent = stack.pop()
        if not isinstance(node, dict):
            raise InputError(f"children must be objects with a name, got {node!r}")
        name = str(node.get("name", ""))
        value = next((node[key] for key in ("value", "size", "weight") if key in node), np.nan)
        children = node.get("children") or []
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"value of {name!r} must be a number, got {value!r}")
        stack.extend((child, len(names)) for child in reversed(children))
        names.append(name)
        parents.append(parent)
        weights.append(float(value))
    return tree_from_parents(names, parents, weights)


def _from_csv(path: Path) -> Tree:
    """Lines parent,child,weight; a first line without a number in the third place that says so is a header."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8: {error.reason} at byte {error.start}") from None
    rows = [[word.strip() for word in row] for row in csv.reader(text.splitlines()) if any(map(str.strip, row))]
    if rows and [word.lower() for word in rows[0][:2]] == ["parent", "child"]:
        rows = rows[1:]
    if not rows:
        raise InputError(f"{path}: is empty")
    place: dict[str, int] = {}
    parent_of: dict[str, str] = {}
    weights: dict[str, float] = {}
    for row in rows:
        if len(row) not in (2, 3):
            raise InputError(f"{path}: lines must be parent,child,weight, got {','.join(row)!r}")
        parent, child, words = row[0], row[1], row[2] if len(row) == 3 else ""
        if child in weights:
            raise InputError(f"{path}: {child!r} is a child twice; names must differ")
        try:
            weights[child] = float(words) if words else np.nan
        except ValueError:
            raise InputError(f"{path}: the weight of {child!r} is no number: {words!r}") from None
        # A line with an empty parent is that of the root.
        if parent:
            parent_of[child] = parent
            place.setdefault(parent, len(place))
        place.setdefault(child, len(place))
    roots = [name for name in place if name not in parent_of]
    names = list(place)
    parents = [place[parent_of[name]] if name in parent_of else -1 for name in names]
    given = [weights.get(name, np.nan) for name in names]
    if len(roots) > 1:
        # Several trees are drawn side by side, below a root without a name.
        parents = [len(names) if parent < 0 else parent for parent in parents] + [-1]
        names, given = [*names, ""], [*given, np.nan]
    return tree_from_parents(names, parents, given)


def _outline(shape: Shape) -> Any:
    if shape == "rectangle":
        return 3.0, 2.0
    if shape == "square":
        return 1.0, 1.0
    angles = np.linspace(0, 2 * np.pi, 6 if shape == "hexagon" else 48, endpoint=False)
    return np.column_stack([np.cos(angles) * (1.0 if shape == "hexagon" else 1.4), np.sin(angles)])


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            return f"{size:,.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def _number(weight: float) -> str:
    return f"{weight:,.0f}" if weight >= 1000 or weight == int(weight) else f"{weight:.3g}"
