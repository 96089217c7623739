"""Who gives more or fewer channels than the model takes is told those."""

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import InputError
from medseg.engine.channels import read_for
from medseg.io.volumes import read_volumes

CT, BOTH = "one channel \\(CT\\)", "2 channels \\(CT, PET, in this order\\)"


def save(path, num_channels):
    array = np.arange(120 * num_channels, dtype=np.int16).reshape(6, 5, 4, num_channels).squeeze()
    nib.save(nib.Nifti1Image(array, np.diag([2, 2, 3, 1])), path)
    return path


@pytest.mark.parametrize(
    ("files", "channels", "code", "words"),
    [((2,), ("CT",), "E-NDIM", CT), ((1,), ("CT", "PET"), "E-CHANNELS", BOTH), ((3,), ("CT", "PET"), "E-NDIM", BOTH)],
)
def test_the_refusal_names_the_channels_of_the_model(tmp_path, files, channels, code, words):
    paths = [save(tmp_path / f"{number}.nii", size) for number, size in enumerate(files)]
    with pytest.raises(InputError, match=f"The model takes {words}\\. ") as caught, read_for(channels):
        read_volumes(paths, channels=len(channels))
    assert caught.value.code == code


def test_other_refusals_stay_as_they_are(tmp_path):
    with pytest.raises(InputError) as caught, read_for(("CT",)):
        read_volumes([tmp_path / "nowhere.nii"])
    assert "model" not in str(caught.value)
