from __future__ import annotations

import math

import pytest
import torch

from medseg.data.batch import Batch
from medseg.engine.step import as_seen
from medseg.ops.augment import Augmentation


def test_samples_that_tell_a_number_are_seen_in_their_size():
    labels = torch.zeros(2, 24, 24, 24, dtype=torch.uint8)
    labels[:, 8:16, 8:16, 8:16] = 1
    values = {"volume": torch.tensor([0.5, math.nan]), "age": torch.tensor([math.nan, math.nan])}
    known = torch.ones(2, 2, dtype=torch.bool)
    batch = Batch(labels[:, None].float(), labels, known, {}, ("a", "b"), (0, 1), torch.zeros(2, 0), values)
    how = Augmentation((), (), (0, 1, 2), rotation_deg=0.0, scaling=(1.25, 1.25), p_spatial=1.0, intensity=False)
    seen, _ = as_seen(batch, how, seed=(0, 1), augmented=True)
    assert torch.equal(seen.labels[0], labels[0])
    assert (seen.labels[1] == 1).sum() / 8**3 == pytest.approx(1.25**3, rel=0.1)
    assert batch.sized().tolist() == [True, False]
