"""Files that a user brings: arrays, point clouds, images and tables, with errors that name the file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARRAYS = (".npy", ".npz", ".csv", ".txt", ".parquet")
IMAGES = (".png", ".jpg", ".jpeg")
LABELLED = (".csv", ".npz", ".svm")
MESHES = (".ply", ".obj", ".off", ".stl", ".xyz")


class InputError(ValueError):
    """A file that the user named can't be used; the message is one line that says why."""


def read_array(path: Path) -> NDArray[Any]:
    """Read a ``.npy``, ``.npz`` (with one array), ``.csv``, ``.txt`` or ``.parquet`` file as a float64 array."""
    path = _existing(path, ARRAYS)
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                if len(stored.files) != 1:
                    raise InputError(f"{path}: holds {len(stored.files)} arrays ({', '.join(stored.files)}), not one")
                array = stored[stored.files[0]]
        elif path.suffix == ".parquet":
            array = _read_parquet(path)
        else:
            array = _read_text(path)
    except InputError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read as {path.suffix}: {str(error).splitlines()[0]}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{path}: holds {array.dtype}, not numbers")
    array = np.asarray(array, dtype=np.float64)
    if not array.size:
        raise InputError(f"{path}: is empty")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array))[0]
        raise InputError(f"{path}: contains NaN or infinity, first at index {tuple(where.tolist())}")
    return array


def read_labelled(path: Path, label: str = "") -> tuple[Any, NDArray[Any]]:
    """Read samples and their labels from one file.

    Parameters
    ----------
    path : Path
        ``.csv`` with a line of names, ``.npz`` with X and y, or ``.svm`` (svmlight).
    label : str, default ""
        Column of the ``.csv`` that holds the labels; the last one if empty.

    Returns
    -------
    X : ndarray or csr_matrix of shape (n_samples, n_features)
        float64; sparse of an ``.svm``.
    y : ndarray of shape (n_samples,)
        Labels: words of a ``.csv``, else what the file holds.

    Raises
    ------
    InputError
        If the file can't be read, or holds no such samples.
    """
    path = _existing(path, LABELLED)
    try:
        if path.suffix.lower() == ".csv":
            X, y = _labelled_table(path, label)
        elif path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                if not {"X", "y"} <= set(stored.files):
                    raise InputError(f"{path}: needs X and y, holds {', '.join(stored.files) or 'nothing'}")
                X, y = stored["X"].astype(np.float64), stored["y"]
        else:
            from sklearn.datasets import load_svmlight_file

            X, y = load_svmlight_file(str(path))
    except InputError:
        raise
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: can't be read as {path.suffix}: {str(error).splitlines()[0]}") from None
    if X.ndim != 2 or y.shape != X.shape[:1] or not X.shape[0] * X.shape[1]:
        raise InputError(f"{path}: X must have two axes and y one entry a row, got shapes {X.shape} and {y.shape}")
    numbers = X if isinstance(X, np.ndarray) else X.data
    if not np.isfinite(numbers).all():
        raise InputError(f"{path}: contains NaN or infinity")
    return X, y


def _labelled_table(path: Path, label: str) -> tuple[NDArray[np.float64], NDArray[Any]]:
    lines = [line.split(",") for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if len(lines) < 2:
        raise InputError(f"{path}: needs a header and at least one row")
    header = [name.strip() for name in lines[0]]
    if label and label not in header:
        raise InputError(f"{path}: has no column {label!r}; there are {', '.join(header)}")
    column = header.index(label) if label else len(header) - 1
    for i, row in enumerate(lines, 1):
        if len(row) != len(header):
            raise InputError(f"{path}: line {i} has {len(row)} columns, the header {len(header)}")
    if len(header) == 1:
        raise InputError(f"{path}: has no column besides the label")
    try:
        X = np.array([row[:column] + row[column + 1 :] for row in lines[1:]]).astype(np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a feature is not a number: {error}") from None
    return X, np.array([row[column].strip() for row in lines[1:]])


def read_points(path: Path) -> NDArray[np.float64]:
    """Read points of shape (n, d): an array file, or the vertices of a mesh (extra ``meshes``)."""
    if path.suffix.lower() in MESHES:
        _existing(path, MESHES)
        from paperworks._extras import require

        trimesh = require("trimesh", "meshes", "reading meshes and point clouds")
        try:
            return np.asarray(trimesh.load(path, process=False).vertices, dtype=np.float64)
        except Exception as error:  # trimesh raises whatever its readers raise
            raise InputError(f"{path}: can't be read as {path.suffix}: {error}") from None
    if path.suffix.lower() not in ARRAYS:
        _existing(path, (*ARRAYS, *MESHES))
    points = read_array(path)
    if points.ndim == 1:
        points = points[:, None]
    if points.ndim != 2:
        raise InputError(f"{path}: must hold points as rows, got shape {points.shape}")
    return points


def read_image(path: Path) -> NDArray[np.float64]:
    """Read a ``.png`` or ``.jpg`` as floats in [0, 1]: (H, W) if grey, else (H, W, 3); transparency is dropped."""
    from PIL import Image, UnidentifiedImageError

    path = _existing(path, IMAGES)
    try:
        with Image.open(path) as image:
            grey = image.mode in {"1", "L", "LA", "I;16", "I", "F"}
            deep = image.mode in {"I;16", "I"}
            values = np.asarray(image if deep else image.convert("L" if grey else "RGB"), dtype=np.float64)
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path}: can't be read as an image: {error}") from None
    return values / (65535.0 if deep else 255.0)


def is_image(path: Path) -> bool:
    """Whether the file's name says that it is a picture."""
    return path.suffix.lower() in IMAGES


def files_in(folder: Path, suffixes: Iterable[str]) -> list[Path]:
    """Files of a folder with one of these endings, sorted by name."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in set(suffixes))
    if not found:
        raise InputError(f"{folder}: holds no {', '.join(suffixes)} file")
    return found


def _existing(path: Path, suffixes: tuple[str, ...]) -> Path:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a file")
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: unreadable format {path.suffix!r}; accepted here: {', '.join(suffixes)}")
    return path


def _read_text(path: Path) -> NDArray[Any]:
    """Read numbers parted by commas, semicolons or white space, with or without a line of names."""
    text = path.read_text(encoding="utf-8-sig")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path}: is empty")
    separator = next((mark for mark in ",;\t" if mark in lines[0]), None)

    def is_number(word: str) -> bool:
        try:
            float(word)
        except ValueError:
            return False
        return True

    header = not any(is_number(word) for word in lines[0].split(separator))
    return np.loadtxt(lines[header:], delimiter=separator, ndmin=2).squeeze(
        axis=1 if _one_column(lines, separator) else ()
    )


def _one_column(lines: list[str], separator: str | None) -> bool:
    return len(lines[-1].split(separator)) == 1


def _read_parquet(path: Path) -> NDArray[Any]:
    from paperworks._extras import require

    pandas = require("pandas", "tables", "reading .parquet files")
    require("pyarrow", "tables", "reading .parquet files")
    frame = pandas.read_parquet(path)
    other = [str(name) for name, kind in frame.dtypes.items() if kind.kind not in "fiub"]
    if other:
        raise InputError(f"{path}: columns that hold no numbers: {', '.join(other)}")
    return frame.to_numpy()
