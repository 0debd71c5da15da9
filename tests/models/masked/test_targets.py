"""What masked models predict: histograms of gradients as scikit-image's, and normalized pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videovit.errors import UserError
from videovit.models.masked.targets import HogTarget, PixelTarget, hog


@pytest.mark.parametrize("kind", ["noise", "picture", "flat"])
def test_hog_equals_scikit_image(kind: str) -> None:
    feature = pytest.importorskip("skimage.feature", reason="scikit-image is not installed (pip install -e .[dev])")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :56]
    images = {
        "noise": rng.normal(size=(40, 56)),
        "picture": np.sin(x / 5.0) * np.cos(y / 7.0) + (np.hypot(x - 20, y - 15) < 9),
        "flat": np.zeros((40, 56)),
    }
    expected = feature.hog(
        images[kind],
        orientations=9,
        pixels_per_cell=(8, 8),
        cells_per_block=(1, 1),
        block_norm="L2",
        feature_vector=False,
    )
    found = hog(torch.from_numpy(images[kind]))
    assert found.shape == (5, 7, 9)
    # scikit-image adds up in single precision.
    np.testing.assert_allclose(found.numpy(), expected[:, :, 0, 0], rtol=1e-6, atol=1e-7)
    norms = np.linalg.norm(expected, axis=-1)
    assert norms.max() > 0.99 if kind != "flat" else norms.max() == 0


def test_hog_target_holds_the_cells_of_each_token() -> None:
    x = torch.randn(2, 3, 4, 32, 48, generator=torch.Generator().manual_seed(0))
    target = HogTarget((2, 16, 16), 3)
    values = target(x)
    assert values.shape == (2, 2, 2, 3, target.dim) and target.dim == 3 * 9 * 4
    cells = hog(x[:, :, ::2])  # of the first frame of each token
    torch.testing.assert_close(target.cells(values), cells)
    # Token (1, 0, 2) covers rows 0 to 1 and columns 4 to 5 of the cells; order: channel, orientation, row, column.
    torch.testing.assert_close(values[1, 1, 0, 2], cells[1, :, 1, :2, 4:6].permute(0, 3, 1, 2).flatten())
    with pytest.raises(UserError, match="MASK.PRED_HOG: found 'one token per 12 x 16 pixels', expected multiples of 8"):
        HogTarget((2, 12, 16), 3)


@pytest.mark.parametrize(("first_frame", "normalize"), [(True, True), (False, True), (True, False), (False, False)])
def test_pixel_target_is_the_patch_and_can_be_drawn(first_frame: bool, normalize: bool) -> None:
    x = 5 + 3 * torch.randn(2, 3, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    target = PixelTarget((2, 4, 4), 3, first_frame=first_frame, normalize=normalize)
    values = target(x)
    assert values.shape == (2, 2, 2, 3, target.dim) and target.dim == (1 if first_frame else 2) * 4 * 4 * 3
    patch = x[1, :, 2 : 3 if first_frame else 4, 4:8, 0:4].permute(1, 2, 3, 0).flatten()  # token (1, 1, 0) of clip 1
    if normalize:
        patch = (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt()
    torch.testing.assert_close(values[1, 1, 1, 0], patch)
    torch.testing.assert_close(target.pixels(values, x), x[:, :, ::2] if first_frame else x)
