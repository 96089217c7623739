from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from medseg.core.plan import Normalisation
from medseg.ops.intensity import correct, normalise


def test_fixed_clips_then_subtracts_and_divides():
    rule = Normalisation(scheme="fixed", lower=-100, upper=200, mean=50, std=25)
    image = torch.tensor([-1000.0, -100, 50, 75, 3000]).reshape(1, 5, 1, 1)
    assert normalise(image, [rule]).flatten().tolist() == [-6, -6, 0, 1, 6]


def test_open_ends_do_not_clip():
    rule = Normalisation(scheme="fixed", upper=10, mean=0, std=1)
    assert normalise(torch.tensor([-1e6, 20.0]).reshape(1, 2, 1, 1), [rule]).flatten().tolist() == [-1e6, 10]


def test_per_image_is_a_z_score_of_each_channel():
    image = torch.randn(2, 6, 5, 4) * torch.tensor([3.0, 40]).reshape(2, 1, 1, 1) + 7
    result = normalise(image, [Normalisation(scheme="per_image")] * 2)
    np.testing.assert_allclose(result.mean((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std((1, 2, 3), correction=0), 1, atol=1e-5)


def test_nonzero_looks_only_at_the_body_and_leaves_zero_outside():
    image = torch.zeros(1, 6, 6, 6)
    image[:, 1:4] = torch.randn(3, 6, 6) * 5 + 100
    result = normalise(image.clone(), [Normalisation(scheme="per_image", nonzero=True)])
    assert result[image == 0].abs().max() == 0
    assert result[image != 0].mean().abs() < 1e-5
    assert result[image != 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_becomes_zero_not_nan(nonzero, value):
    result = normalise(torch.full((1, 3, 3, 3), value), [Normalisation(scheme="per_image", nonzero=nonzero)])
    assert result.abs().max() == 0


def test_one_rule_per_channel():
    with pytest.raises(ValueError, match="zip"):
        normalise(torch.zeros(2, 2, 2, 2), [Normalisation(scheme="per_image")])


def _phantom():
    """Two tissues in a ball, and the smooth gain of a coil."""
    grid = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij")
    radius = sum(axis**2 for axis in grid).sqrt()
    tissue = torch.where(radius < 0.5, 200.0, 100.0) * (radius < 0.9)
    return tissue, torch.exp(0.5 * grid[0] - 0.3 * grid[1])


def _spread(image, tissue):
    inside = image[tissue == 100]
    return (inside.std() / inside.mean()).item()


def test_bias_field_correction_flattens_a_tissue():
    tissue, gain = _phantom()
    image = (tissue * gain)[None]
    fixed = correct(image, [Normalisation(scheme="per_image", correct_bias_field=True)])
    assert _spread(fixed[0], tissue) < 0.5 * _spread(image[0], tissue)
    assert torch.equal(image[0], tissue * gain)


def test_equalisation_keeps_range_and_raises_contrast_inside_a_tissue():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 16, 16, 16, generator=generator) + torch.arange(16.0).reshape(1, 16, 1, 1) * 20
    equal = correct(image, [Normalisation(scheme="per_image", equalise=True)])
    assert equal.shape == image.shape
    assert bool(torch.isfinite(equal).all())
    assert equal.min() > image.min() - 60
    assert equal.max() < image.max() + 60
    assert equal[0, 8].std() > image[0, 8].std()


def test_only_channels_that_ask_are_corrected():
    image = torch.rand(2, 8, 8, 8)
    rules = [Normalisation(scheme="per_image"), Normalisation(scheme="per_image", equalise=True)]
    result = correct(image, rules)
    assert torch.equal(result[0], image[0])
    assert not torch.equal(result[1], image[1])
    assert correct(image, rules[:1] * 2) is image


@pytest.mark.parametrize("shape", [(20, 20, 1), (20, 1, 20), (20, 20, 2), (2, 1, 1)])
def test_corrections_take_a_flat_image(shape):
    rule = Normalisation(scheme="per_image", equalise=True, correct_bias_field=True)
    assert bool(torch.isfinite(correct(torch.rand(1, *shape) * 100, [rule])).all())


@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 5, 4)])
def test_a_constant_channel_has_nothing_to_correct(shape):
    rule = Normalisation(scheme="per_image", equalise=True, correct_bias_field=True)
    image = torch.full((1, *shape), 42.0)
    assert torch.equal(correct(image, [rule]), image)


def test_a_model_without_bias_correction_loads_no_library_for_it():
    code = "import sys, medseg.engine.predict; print('SimpleITK' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
