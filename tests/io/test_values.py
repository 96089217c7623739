"""What the values of an image may be."""

from pathlib import Path

import numpy as np
import pytest

from medseg.io.values import intensity_faults


@pytest.mark.parametrize(("value", "words"), [(-0.0, "every voxel has the value 0"), (1.5, "has the value 1.5")])
def test_a_constant_image_is_told_with_its_value_as_people_write_it(value, words):
    (fault,) = intensity_faults(np.full((1, 2, 2, 2), value, np.float32), Path("x.nii"))
    assert fault.code == "E-CONSTANT"
    assert fault.message.endswith(words)
