"""A model is told what it was not trained for: the answer stands, with a flag."""

from __future__ import annotations

import numpy as np

from medseg.core.settings import InferSettings
from medseg.core.volume import Volume
from medseg.data.manifest import read_manifest
from medseg.io.volumes import read_volume, write_volume
from medseg.workflows.infer import infer


def test_v10_and_q02_a_ct_model_flags_what_is_no_ct_in_hu(workspace, cohort, tmp_path):
    image = read_manifest(cohort).cases[0].images[0]
    volume = read_volume(image)
    offset = np.maximum(volume.array.astype(np.int32) + 1024, 0).astype(np.uint16)
    write_volume(Volume(offset, volume.geometry), tmp_path / "offset.nii.gz")
    result = infer(
        workspace.newest_bundle(), tmp_path / "out", InferSettings(), volumes=[tmp_path / "offset.nii.gz", image]
    )
    flags = {one.case: [flag.split(":")[0] for flag in one.flags] for one in result.predictions}
    assert "W-INTENSITY" in flags.pop("offset")
    assert "W-INTENSITY" not in next(iter(flags.values()))
