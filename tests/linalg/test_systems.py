import gzip

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.io import mmwrite

from paperworks._files import InputError
from paperworks.linalg._systems import check_matrix, check_system, read_systems


def test_a_matrix_comes_back_as_canonical_csr():
    doubled = sp.csr_array((np.array([2.0, 1, 1, 3]), np.array([1, 0, 0, 1]), np.array([0, 3, 4])), shape=(2, 2))
    found = check_matrix("A", doubled)
    np.testing.assert_array_equal(found.toarray(), [[2, 2], [0, 3]])
    assert found.has_sorted_indices
    assert doubled.nnz == 4  # the caller's own is left as it was
    assert check_matrix("A", np.eye(2, dtype=np.float32)).dtype == np.float64
    assert check_matrix("A", sp.eye_array(2, dtype=np.complex64)).dtype == np.complex128


@pytest.mark.parametrize(
    ("A", "error", "message"),
    [
        (np.eye(2, dtype=int), TypeError, "A must hold floating-point numbers, got int64"),
        (np.ones((2, 3)), ValueError, r"A must be a square matrix of at least one row, got shape \(2, 3\)"),
        (np.ones((0, 0)), ValueError, "A must be a square matrix"),
        (np.ones(3), ValueError, "A must be a square matrix"),
        (np.array([[1.0, 0], [np.nan, 1]]), ValueError, "A contains NaN or infinity, first in row 1"),
        ([[1.0], [1.0, 2.0]], ValueError, "A is not a rectangular array"),
    ],
)
def test_bad_matrices_are_named(A, error, message):
    with pytest.raises(error, match=message):
        check_matrix("A", A)


def test_symmetry_is_up_to_rounding():
    check_matrix("A", np.array([[1, 1 / 3], [1 / 3 + 1e-16, 1]]), symmetric=True)
    with pytest.raises(ValueError, match=r"A must be symmetric; entry \([01], [01]\)"):
        check_matrix("A", np.array([[1, 0.5], [0.4, 1]]), symmetric=True)
    check_matrix("A", np.array([[1, 1j], [-1j, 1]]), symmetric=True)
    with pytest.raises(ValueError, match="A must be Hermitian"):
        check_matrix("A", np.array([[1, 1j], [1j, 1]]), symmetric=True)


def test_vectors_must_fit():
    A = np.eye(3)
    for arguments, message in [
        ((A, np.ones(2)), r"b must have shape \(3,\) to fit A, got \(2,\)"),
        ((A, np.array([1.0, np.inf, 0])), "b contains NaN or infinity"),
        ((A, np.ones(3), np.ones(4)), r"x0 must have shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_system(*arguments)
    with pytest.raises(TypeError, match="b must hold floating-point numbers, got int64"):
        check_system(A, [1, 2, 3])


def test_systems_are_read_with_their_right_hand_sides(tmp_path):
    first, second = sp.csr_array(np.array([[2.0, 1], [0, 1]])), sp.csr_array(np.array([[1.0, 1j], [0, 1]]))
    mmwrite(tmp_path / "b-system.mtx", first)
    np.save(tmp_path / "b-system.npy", np.array([1.0, 2]))
    sp.save_npz(tmp_path / "c.npz", second)
    np.save(tmp_path / "c_rhs.npy", np.array([1j, 2]))
    mmwrite(tmp_path / "d.mtx", first)
    (tmp_path / "a.mtx.gz").write_bytes(gzip.compress((tmp_path / "d.mtx").read_bytes()))
    mmwrite(tmp_path / "d_rhs.mtx", np.array([[3.0], [4]]))
    a, b, c, d = read_systems([tmp_path])
    assert [each.name for each in (a, b, c, d)] == ["a", "b-system", "c", "d"]
    np.testing.assert_array_equal(a.rhs, [1, 1])
    np.testing.assert_array_equal(b.rhs, [1, 2])
    np.testing.assert_array_equal(c.rhs, [1j, 2])
    np.testing.assert_array_equal(d.rhs, [3, 4])
    np.testing.assert_array_equal(c.matrix.toarray(), second.toarray())
    np.testing.assert_array_equal(d.matrix.toarray(), first.toarray())


def test_unreadable_systems_name_their_file(tmp_path):
    with pytest.raises(InputError, match=r"no.mtx: no such file"):
        read_systems([tmp_path / "no.mtx"])
    (tmp_path / "text.mtx").write_text("hello\n")
    with pytest.raises(InputError, match=r"text.mtx: can't be read as a matrix"):
        read_systems([tmp_path / "text.mtx"])
    mmwrite(tmp_path / "wide.mtx", np.ones((2, 3)))
    with pytest.raises(InputError, match=r"wide.mtx must be a square matrix"):
        read_systems([tmp_path / "wide.mtx"])
    mmwrite(tmp_path / "good.mtx", sp.eye_array(3))
    np.save(tmp_path / "good.npy", np.ones(2))
    with pytest.raises(InputError, match=r"good.npy: must hold 3 numbers to fit good.mtx, got shape \(2,\)"):
        read_systems([tmp_path / "good.mtx"])
    (tmp_path / "sub").mkdir()
    with pytest.raises(InputError, match=r"holds no .mtx"):
        read_systems([tmp_path / "sub"])
    np.save(tmp_path / "other.npy", np.ones(2))
    with pytest.raises(InputError, match=r"unreadable format '.npy'"):
        read_systems([tmp_path / "other.npy"])
