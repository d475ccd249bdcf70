"""The autoencoder of point clouds, the synthetic shapes and the command."""

import copy
import pickle

import numpy as np
import ot
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from paperworks._files import InputError
from paperworks.papers.amortized_sliced_wasserstein.run import run
from paperworks.transport import (
    AmortizedSlicedWassersteinLoss,
    AttentionAmortizer,
    PointCloudAutoencoder,
    PointCloudReconstructor,
    make_shapes,
)
from paperworks.transport.amortized_sliced_wasserstein import _shapes


def small(**changes):
    settings = {
        "latent_dim": 16, "n_epochs": 3, "batch_size": 8, "n_projections": 10, "device": "cpu", "random_state": 0,
    }  # fmt: skip
    return PointCloudReconstructor(**settings | changes)


@pytest.fixture(scope="module")
def clouds():
    return make_shapes(24, 40, random_state=0)[0]


@pytest.fixture(scope="module")
def trained(clouds):
    return small(n_epochs=60, learning_rate=3e-3).fit(clouds)


def test_training_reconstructs(clouds, trained):
    assert trained.loss_curve_[-1] < 0.2 * trained.loss_curve_[0]
    assert trained.score(clouds) > 0.4 * small(n_epochs=1).fit(clouds).score(clouds)
    guess = trained.inverse_transform(trained.transform(clouds))
    # Each cloud's reconstruction is nearer to it than to the other clouds.
    distances = [[ot.emd2([], [], ot.dist(x, y)) for y in guess] for x in clouds]
    assert np.mean(np.argmin(distances, axis=1) == np.arange(24)) > 0.25


def test_score_is_minus_the_mean_distance_in_the_units_of_the_data(clouds, trained):
    guess = trained.inverse_transform(trained.transform(clouds))
    by_pot = np.mean(
        [ot.sliced_wasserstein_distance(x, y, n_projections=3000, seed=0) for x, y in zip(clouds, guess, strict=True)]
    )
    assert trained.score(clouds) == pytest.approx(-by_pot, rel=0.1)


def test_codes_ignore_the_order_of_points_and_the_company_of_clouds(clouds, trained):
    codes = trained.transform(clouds)
    np.testing.assert_allclose(trained.transform(clouds[:, ::-1]), codes, atol=1e-5)
    np.testing.assert_allclose(trained.transform(clouds[3:4]), codes[3:4], atol=1e-5)
    np.testing.assert_allclose(trained.transform(np.repeat(clouds, 2, axis=1)), codes, atol=1e-5)


def test_units_do_not_matter(clouds):
    near, far = small().fit(clouds), small().fit(1000 * clouds - 7e3)
    assert far.score(1000 * clouds - 7e3) == pytest.approx(1000 * near.score(clouds), rel=0.02)


def test_fitting_is_repeatable(clouds):
    one, other = (small().fit(clouds).transform(clouds) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.abs(small(random_state=1).fit(clouds).transform(clouds) - one).max() > 1e-3


@pytest.mark.parametrize("loss", ["amortized", "amortized-max", "distributional", "max-sliced", "sliced"])
def test_every_loss_learns(clouds, loss):
    model = small(loss=loss, n_epochs=8).fit(clouds)
    assert len(model.loss_curve_) == 8
    assert model.loss_curve_[-1] < model.loss_curve_[0]


@pytest.mark.parametrize("amortizer", ["softmax", "linformer", "linear", "generalized-linear", "nonlinear"])
def test_every_amortiser_learns(clouds, amortizer):
    model = small(amortizer=amortizer, n_epochs=8).fit(clouds)
    assert model.loss_curve_[-1] < model.loss_curve_[0]


def test_uniform_epochs_come_first(clouds):
    warm, sliced = small(uniform_epochs=3).fit(clouds), small(loss="sliced").fit(clouds)
    assert warm.loss_curve_[0] == pytest.approx(sliced.loss_curve_[0], rel=0.3)
    np.testing.assert_array_equal(
        small(loss=lambda x, y: 1 / 0, uniform_epochs=3).fit(clouds).loss_curve_,
        small(loss=lambda x, y: None, uniform_epochs=3).fit(clouds).loss_curve_,
    )


def test_a_module_given_as_loss_is_copied(clouds):
    loss = AmortizedSlicedWassersteinLoss(AttentionAmortizer(3, random_state=0), n_projections=10, random_state=0)
    before = copy.deepcopy(loss.amortizer.state_dict())
    small(loss=loss).fit(clouds)
    assert all(torch.equal(before[name], each) for name, each in loss.amortizer.state_dict().items())


def test_scikit_learn_checks_that_need_no_flat_data():
    name, estimator = "PointCloudReconstructor", small()
    tags = estimator.__sklearn_tags__().input_tags
    assert tags.three_d_array
    assert not tags.two_d_array
    for check in (
        "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
        "check_mixin_order",
    ):  # fmt: skip
        getattr(estimator_checks, check)(name, estimator)


def test_estimator_clones_and_pickles(clouds, trained):
    assert clone(trained).get_params() == trained.get_params()
    again = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(again.transform(clouds), trained.transform(clouds))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": "chamfer"}, "loss must be one of"),
        ({"amortizer": "mlp"}, "amortizer must be one of"),
        ({"concentration": -1.0}, "concentration"),
        ({"n_epochs": 0}, "n_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"n_projections": 0}, "n_projections"),
        ({"uniform_epochs": -1}, "uniform_epochs"),
    ],
)
def test_bad_parameters_are_refused_on_fitting(clouds, change, words):
    with pytest.raises(ValueError, match=words):
        small(**change).fit(clouds)


def test_bad_clouds_are_refused(clouds, trained):
    with pytest.raises(NotFittedError):
        small().transform(clouds)
    with pytest.raises(ValueError, match="X must hold clouds"):
        small().fit(clouds[0])
    with pytest.raises(ValueError, match="NaN"):
        small().fit(np.full((2, 4, 3), np.nan))
    with pytest.raises(ValueError, match="d >= 2"):
        small().fit(clouds[..., :1])
    with pytest.raises(ValueError, match="dimension 2"):
        trained.transform(clouds[..., :2])
    with pytest.raises(ValueError, match="codes must have length 16, got 3"):
        trained.inverse_transform(np.ones((2, 3)))


def test_autoencoder_refuses_other_shapes():
    model = PointCloudAutoencoder(5, latent_dim=4, random_state=0)
    with pytest.raises(ValueError, match="clouds must have 3 dimensions"):
        model.encode(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="points of dimension 3, got 2"):
        model(torch.zeros(1, 5, 2))


# Shapes


def test_points_lie_on_their_surfaces():
    rng = np.random.default_rng(0)
    assert np.allclose(np.linalg.norm(_shapes._sphere(500, rng), axis=1), 1)
    assert np.allclose(np.abs(_shapes._box(500, rng)).max(axis=1), 1)
    torus = _shapes._torus(4000, rng)
    from_axis = np.hypot(torus[:, 0], torus[:, 1])
    assert np.allclose((from_axis - 0.7) ** 2 + torus[:, 2] ** 2, 0.09)
    # By Pappus, the outer half of a torus has the share 1/2 + r / (pi R) of its area.
    assert np.mean(from_axis > 0.7) == pytest.approx(0.5 + 0.3 / (np.pi * 0.7), abs=0.03)
    cylinder = _shapes._cylinder(4000, rng)
    radius = np.hypot(cylinder[:, 0], cylinder[:, 1])
    on_side, on_lid = np.isclose(radius, 1), np.isclose(np.abs(cylinder[:, 2]), 1)
    assert (on_side | on_lid).all()
    assert on_side.mean() == pytest.approx(2 / 3, abs=0.03)


def test_shapes_are_repeatable_and_shift():
    one, kinds = make_shapes(8, 30, random_state=5)
    np.testing.assert_array_equal(one, make_shapes(8, 30, random_state=5)[0])
    assert kinds.tolist() == [0, 1, 2, 3] * 2
    moved, _ = make_shapes(400, 30, shift=2.0, random_state=5)
    assert 1.5 < np.abs(moved.mean(axis=1)).max() < 2.5
    for bad in ({"n_samples": 0}, {"n_points": 0}, {"shift": -1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            make_shapes(**bad)


# The command


def test_command_reads_arrays_and_folders(tmp_path, clouds):
    out = tmp_path / "out"
    out.mkdir()
    np.savez(tmp_path / "clouds.npz", clouds)
    summary = run(tmp_path / "clouds.npz", out=out, points=32, projections=10, code=8, epochs=20)
    assert summary["clouds"] == 24
    assert summary["dimension"] == 3
    assert summary["input"].endswith("clouds.npz")
    first, last = summary["training loss, first and last epoch"]
    assert last < 0.7 * first
    assert 0 < summary["mean sliced Wasserstein distance, held out"] < summary["root mean square radius"]
    assert np.load(out / "codes.npy").shape == (24, 8)
    guesses = np.load(out / "reconstructions.npy")
    model = PointCloudAutoencoder(32, latent_dim=8)
    stored = torch.load(out / "model.pt")
    model.load_state_dict(stored["autoencoder"])
    decoded = model.decode(torch.from_numpy(np.load(out / "codes.npy"))).detach() * stored["scale"] + stored["center"]
    np.testing.assert_allclose(decoded.numpy(), guesses, atol=1e-5)
    assert len((out / "distances.csv").read_text().splitlines()) == 25
    assert (out / "picture.png").stat().st_size > 10_000

    folder, out = tmp_path / "folder", tmp_path / "other"
    folder.mkdir(), out.mkdir()
    for index, cloud in enumerate(clouds[:3]):
        np.savetxt(folder / f"{index}.csv", cloud[: 20 + 10 * index, :2], delimiter=",")
    summary = run(folder, out=out, points=25, projections=5, code=4, epochs=1, loss="sliced")
    assert (summary["clouds"], summary["points"], summary["dimension"]) == (3, 25, 2)
    assert summary["mean sliced Wasserstein distance, held out"] is None


def test_command_shows_photographs_without_files(tmp_path):
    summary = run(out=tmp_path, points=32, projections=5, code=8, epochs=1)
    assert "photographs" in summary["input"]
    assert summary["clouds"] == 2 * 10 * 16
    assert (tmp_path / "picture.png").exists()


def test_command_refuses_bad_files(tmp_path, clouds):
    np.save(tmp_path / "flat.npy", np.ones(5))
    with pytest.raises(InputError, match="must have shape"):
        run(tmp_path / "flat.npy", out=tmp_path)
    np.save(tmp_path / "line.npy", np.ones((5, 1)))
    with pytest.raises(InputError, match="at least 2 coordinates"):
        run(tmp_path / "line.npy", out=tmp_path)
    np.save(tmp_path / "solid.npy", clouds)
    np.save(tmp_path / "plane.npy", clouds[..., :2])
    with pytest.raises(InputError, match="one dimension, got 3 and 2"):
        run(tmp_path / "solid.npy", tmp_path / "plane.npy", out=tmp_path)
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path / "absent.npy", out=tmp_path)
    with pytest.raises(ValueError, match="epochs"):
        run(tmp_path / "solid.npy", out=tmp_path, epochs=0)
