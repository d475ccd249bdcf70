import numpy as np
import pytest
import torch

from paperworks._extras import MissingExtraError, require
from paperworks._files import InputError, files_in, is_image, read_array, read_image, read_labelled, read_points
from paperworks._random import integer_seed, numpy_generator, torch_generator
from paperworks._tensors import to_tensors
from paperworks._training import start_training
from paperworks._validation import check_choice, check_floating, check_integer, check_number, check_weights


@pytest.mark.parametrize(
    ("check", "error", "message"),
    [
        (lambda: check_number("p", "1"), TypeError, "p must be a number, got '1'"),
        (lambda: check_number("p", True), TypeError, "p must be a number"),
        (lambda: check_number("p", np.nan), ValueError, "p must be a finite number, got nan"),
        (lambda: check_number("p", 0, above=0), ValueError, "p must be a finite number greater than 0, got 0"),
        (lambda: check_number("p", 3, at_least=0, at_most=1), ValueError, "at least 0 and at most 1, got 3"),
        (lambda: check_integer("n", 2.0), TypeError, "n must be an integer, got 2.0"),
        (lambda: check_integer("n", 0), ValueError, "n must be at least 1, got 0"),
        (lambda: check_choice("kind", "c", ("a", "b")), ValueError, "kind must be one of 'a', 'b', got 'c'"),
        (lambda: check_floating("x", [[1.0], [1.0, 2.0]]), ValueError, "x is not a rectangular array"),
        (lambda: check_floating("x", [1, 2]), TypeError, "x must hold floating-point numbers, got int64"),
        (
            lambda: check_floating("x", [[1.0, np.inf]]),
            ValueError,
            r"x contains NaN or infinity, first at index \(0, 1",
        ),
        (lambda: check_floating("x", [1.0], ndim=2), ValueError, r"x must have 2 dimensions, got shape \(1,\)"),
        (lambda: check_weights("w", [0.5, -0.5], 2), ValueError, "w must not be negative, got -0.5 at index 1"),
        (lambda: check_weights("w", [0.0, 0.0], 2), ValueError, "w must have a positive sum"),
        (lambda: check_weights("w", [1.0], 2), ValueError, "w must have length 2, got 1"),
    ],
)
def test_errors_name_the_argument_and_what_it_got(check, error, message):
    with pytest.raises(error, match=message):
        check()


def test_large_numbers_are_finite():
    # Their sum overflows, which must not be taken for infinity.
    check_floating("x", np.full(4, 1e308))
    to_tensors(x=np.full(4, 1e308))


def test_numpy_in_gives_numpy_out():
    (x, y), restore = to_tensors(x=np.ones((2, 3), dtype=np.float32), y=[1.0, 2.0])
    assert x.dtype == y.dtype == torch.float64
    assert isinstance(restore(x), np.ndarray)
    assert restore(x.sum()) == 6.0
    assert isinstance(restore(x.sum()), float)
    assert isinstance(restore([x])[0], np.ndarray)
    (x, missing), restore = (*to_tensors(x=torch.ones(2), y=None)[0], None), to_tensors(x=torch.ones(2))[1]
    assert missing is None
    assert restore(x) is x


def test_arrays_are_not_copied():
    array = np.ones((2, 3))
    (tensor,), _ = to_tensors(x=array)
    tensor[0, 0] = 5.0
    assert array[0, 0] == 5.0


@pytest.mark.parametrize("make", [numpy_generator, torch_generator, integer_seed])
def test_one_seed_one_result_and_no_global_state(make):
    def draw(random_state):
        made = make(random_state)
        if isinstance(made, torch.Generator):
            return float(torch.rand((), generator=made))
        return made.random() if isinstance(made, np.random.Generator) else made

    np.random.seed(0)  # noqa: NPY002
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    for kind in (int, np.random.RandomState, np.random.default_rng, lambda seed: torch.Generator().manual_seed(seed)):
        assert draw(kind(3)) == draw(kind(3)) != draw(kind(4))
    assert draw(None) != draw(None)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    with pytest.raises(TypeError, match="random_state must be"):
        draw("seed")
    with pytest.raises(ValueError, match="must not be negative"):
        draw(-1)


def test_training_runs_where_it_is_told():
    module = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    accelerator, device, (prepared, stepper) = start_training("cpu", module, optimizer)
    before = module.weight.clone()
    accelerator.backward(prepared(torch.ones(1, 2, device=device)).sum())
    stepper.step()
    assert not torch.equal(before, module.weight)


def test_a_missing_extra_says_what_to_install():
    with pytest.raises(MissingExtraError, match=r"reading tea needs no_such_module.*pip install 'paperworks\[tea\]'"):
        require("no_such_module", "tea", "reading tea")


def test_arrays_are_read_from_every_format(tmp_path):
    table = np.array([[1.0, 2.5], [3.0, -4.0]])
    np.save(tmp_path / "a.npy", table)
    np.savez(tmp_path / "a.npz", table)
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", header="first,second", comments="")
    np.savetxt(tmp_path / "a.txt", table)
    (tmp_path / "b.csv").write_text("# a comment\n1;2.5\n\n3;-4\n")
    for name in ("a.npy", "a.npz", "a.csv", "a.txt", "b.csv"):
        np.testing.assert_array_equal(read_array(tmp_path / name), table)
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(table, columns=["p", "q"]).to_parquet(tmp_path / "a.parquet")
    np.testing.assert_array_equal(read_array(tmp_path / "a.parquet"), table)
    pandas.DataFrame({"name": ["x"], "q": [1.0]}).to_parquet(tmp_path / "words.parquet")
    with pytest.raises(InputError, match="columns that hold no numbers: name"):
        read_array(tmp_path / "words.parquet")
    np.savez(tmp_path / "two.npz", a=table, b=table)
    with pytest.raises(InputError, match=r"holds 2 arrays \(a, b\), not one"):
        read_array(tmp_path / "two.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"can't be read as .npy"):
        read_array(tmp_path / "objects.npy")
    np.savetxt(tmp_path / "column.txt", np.arange(3.0))
    assert read_array(tmp_path / "column.txt").shape == (3,)
    assert read_points(tmp_path / "column.txt").shape == (3, 1)


def test_meshes_are_read_as_points(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    trimesh.creation.box().export(tmp_path / "box.ply")
    assert read_points(tmp_path / "box.ply").shape == (8, 3)
    (tmp_path / "bad.ply").write_text("no mesh")
    with pytest.raises(InputError, match=r"bad.ply: can't be read"):
        read_points(tmp_path / "bad.ply")


def test_pictures_are_read_between_0_and_1(tmp_path):
    from PIL import Image

    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), [[0.0, 1.0]])
    Image.fromarray(np.array([[0, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png"), [[0.0, 1.0]])
    Image.fromarray(np.full((2, 3, 4), 51, dtype=np.uint8), mode=None).save(tmp_path / "clear.png")
    np.testing.assert_allclose(read_image(tmp_path / "clear.png"), np.full((2, 3, 3), 0.2))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"bad.png: can't be read as an image"):
        read_image(tmp_path / "bad.png")
    assert is_image(tmp_path / "x.JPG")
    assert [path.name for path in files_in(tmp_path, [".png"])] == ["bad.png", "clear.png", "deep.png", "grey.png"]
    with pytest.raises(InputError, match=r"holds no \.off file"):
        files_in(tmp_path, [".off"])


class TestLabelled:
    def test_three_formats_hold_the_same(self, tmp_path):
        X, y = np.array([[1.0, 0], [0, 2.5], [3, 4]]), np.array([1, 0, 1])
        np.savez(tmp_path / "t.npz", X=X, y=y)
        (tmp_path / "t.svm").write_text("1 1:1\n0 2:2.5\n1 1:3 2:4\n")
        (tmp_path / "t.csv").write_text("a, kind, b\n1,1,0\n0,0,2.5\n3,1,4\n")
        for name, label in (("t.npz", ""), ("t.svm", ""), ("t.csv", "kind")):
            found, labels = read_labelled(tmp_path / name, label)
            np.testing.assert_array_equal(found if name != "t.svm" else found.toarray(), X)
            np.testing.assert_array_equal(labels.astype(int), y)
        assert list(read_labelled(tmp_path / "t.csv")[1]) == ["0", "2.5", "4"]

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("t.csv", "a,b\n", "needs a header and at least one row"),
            ("t.csv", "a,b\n1,x\n1,y,2\n", "line 3 has 3 columns, the header 2"),
            ("t.csv", "a,b\nz,x\n", "a feature is not a number"),
            ("t.csv", "a\nz\n", "has no column besides the label"),
            ("t.csv", "a,b\nnan,x\n", "contains NaN or infinity"),
            ("t.svm", "hello\n", r"can't be read as .svm"),
            ("t.npz", "hello", r"can't be read as .npz"),
            ("t.txt", "1 2", "unreadable format '.txt'; accepted here: .csv, .npz, .svm"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path, name, text, message):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_labelled(tmp_path / name)

    def test_what_does_not_fit_is_named(self, tmp_path):
        np.savez(tmp_path / "t.npz", X=np.zeros((3, 2)), y=np.zeros(2))
        with pytest.raises(InputError, match=r"one entry a row, got shapes \(3, 2\) and \(2,\)"):
            read_labelled(tmp_path / "t.npz")
        np.savez(tmp_path / "u.npz", A=np.zeros(2))
        with pytest.raises(InputError, match="needs X and y, holds A"):
            read_labelled(tmp_path / "u.npz")
        with pytest.raises(InputError, match="no such file"):
            read_labelled(tmp_path / "none.csv")
        (tmp_path / "t.csv").write_text("a,b\n1,2\n")
        with pytest.raises(InputError, match="has no column 'c'; there are a, b"):
            read_labelled(tmp_path / "t.csv", "c")
