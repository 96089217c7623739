from __future__ import annotations

import pytest
import torch

from medseg.ops import augment_intensity as module
from medseg.ops.draw import Draw


def _seeded(number, batch):
    return [torch.Generator().manual_seed(1000 * number + sample) for sample in range(batch)]


@pytest.mark.parametrize("shape", [(9, 8, 7), (16, 16, 1), (1, 1, 1)])
@pytest.mark.parametrize(("_probability", "transform"), module.CHANGES)
def test_intensity_transforms_keep_shape_stay_finite_and_change_something(_probability, transform, shape):
    for image in (torch.randn(3, 2, *shape), torch.zeros(3, 2, *shape)):
        draw = Draw(_seeded(0, 3), image.device)
        result = transform(image.clone(), draw)
        assert result.shape == image.shape
        assert bool(torch.isfinite(result).all())
    image = torch.randn(3, 2, 9, 8, 7)
    assert not torch.equal(transform(image.clone(), Draw(_seeded(0, 3), image.device)), image)


def test_contrast_and_gamma_keep_the_range_and_blur_the_mean_of_a_constant():
    image = torch.randn(4, 1, 8, 8, 8)
    for transform in (module.contrast, module.gamma):
        result = transform(image, Draw(_seeded(1, 4), image.device))
        assert (result.amax((1, 2, 3, 4)) <= image.amax((1, 2, 3, 4)) + 1e-5).all()
        assert (result.amin((1, 2, 3, 4)) >= image.amin((1, 2, 3, 4)) - 1e-5).all()
    flat = torch.full((2, 3, 6, 6, 6), 4.0)
    torch.testing.assert_close(module.blur(flat, Draw(_seeded(1, 2), flat.device)), flat)


def test_blur_smooths_each_sample_by_its_own_width():
    image = torch.zeros(2, 2, 9, 9, 9)
    image[:, :, 4, 4, 4] = 1
    result = module.blur(image, Draw(_seeded(3, 2), image.device))
    torch.testing.assert_close(result.sum((2, 3, 4)), torch.ones(2, 2))
    assert torch.equal(result[:, 0], result[:, 1])
    assert not torch.allclose(result[0], result[1])
    torch.testing.assert_close(result, result.transpose(2, 4))


def test_a_bias_field_shades_smoothly_and_leaves_the_darkest_voxel():
    image = torch.rand(3, 2, 20, 16, 12) + torch.tensor([-5.0, 3.0])[:, None, None, None]
    image[:, :, 0, 0, 0] = image.amin((2, 3, 4)) - 0.5
    result = module.bias_field(image, Draw(_seeded(0, 3), image.device))
    low = image.amin((2, 3, 4), True)
    torch.testing.assert_close(result[:, :, 0, 0, 0], image[:, :, 0, 0, 0])
    field = ((result - low) / (image - low).clamp(min=1e-6))[:, :, 1:, 1:, 1:]
    assert field.min() > 0
    assert field.max() > 1.1
    assert field.min() < 0.9
    steps = field.log().diff(dim=2).abs().max()
    assert steps < 0.25 * (field.max().log() - field.min().log())
    assert not torch.allclose(field[0], field[1])


def test_a_bias_field_is_the_exponential_of_a_polynomial_of_third_order():
    """Fourth differences of its logarithm along any axis are nothing."""
    image = torch.ones(1, 1, 12, 9, 8, dtype=torch.float64)
    image[:, :, 0, 0, 0] = 0
    field = module.bias_field(image, Draw(_seeded(2, 1), image.device))[0, 0, 1:, 1:, 1:].double().log()
    for axis in range(3):
        assert field.diff(n=4, dim=axis).abs().max() < 1e-5
        assert field.diff(n=3, dim=axis).abs().max() > 1e-5
