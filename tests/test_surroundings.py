"""Training swaps what lies around the lungs, and hides the lungs of some images."""

import numpy as np
import pytest

from lungline.training.surroundings import mix_surroundings

COUNT, SIDE = 16, 48


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Images of one grey level each, with lungs in the middle."""
    grey = np.linspace(0.1, 0.9, COUNT, dtype=np.float32)[:, None, None, None]
    fields = np.zeros((COUNT, SIDE, SIDE), np.float32)
    fields[:, 12:36, 12:36] = 1
    return np.broadcast_to(grey, (COUNT, SIDE, SIDE, 1)).copy(), fields


def mixed(swap: float, cover: float, seed: int = 1, spot: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow as tf

    images, fields = batch()
    if spot is not None:
        images[:, 24, 24] = spot
    changed, hidden = mix_surroundings(
        tf.constant(images), tf.constant(fields), tf.constant([1, seed]), swap=swap, cover=cover
    )
    return changed.numpy(), hidden.numpy()


def test_no_share_changes_nothing() -> None:
    changed, hidden = mixed(0, 0)
    assert np.array_equal(changed, batch()[0])
    assert not hidden.any()


def test_swapped_surroundings_come_from_other_images() -> None:
    """The lungs, and a rim around them, stay."""
    images, _ = batch()
    changed, _ = mixed(1, 0)
    assert changed[:, 12:36, 12:36] == pytest.approx(images[:, 12:36, 12:36])
    corners = changed[:, 0, 0, 0]
    assert sorted(corners) == pytest.approx(sorted(images[:, 0, 0, 0]))
    assert np.mean(corners != images[:, 0, 0, 0]) > 0.7


def test_hidden_lungs_leave_no_trace() -> None:
    changed, hidden = mixed(0, 1, spot=1.0)
    assert hidden.all()
    assert changed[:, 24, 24] == pytest.approx(batch()[0][:, 24, 24], abs=0.01)


def test_the_same_seed_changes_the_same() -> None:
    first, second, other = (mixed(0.5, 0.3, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
