"""What the reading process hands over comes back as it was, and is believed only when it adds up."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest

from medseg.core.errors import MedsegError
from medseg.io.decoded import Decoded
from medseg.io.handover import Handed, Refusal, hand_over, take_over


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("step", [1, -1, 2])
def test_voxels_keep_their_order_in_memory(axes, step):
    array = np.arange(8 * 5 * 4, dtype=np.int16).reshape(8, 5, 4).transpose(axes)[::step]
    again = handed_on(Decoded(array, np.eye(4))).array
    np.testing.assert_array_equal(again, array)
    np.testing.assert_array_equal(np.ravel(again, order="K"), np.ravel(array.copy(order="K"), order="K"))


def handed_on(decoded, **changes) -> Decoded:
    handed, descriptor = hand_over(decoded)
    try:
        return take_over(Handed.model_validate({**handed.model_dump(), **changes}), descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("change", [{"stored": (9, 5, 4)}, {"axes": (0, 0, 1)}, {"axes": (0, 1)}, {"dtype": "<i4"}])
def test_an_answer_that_does_not_add_up_is_not_believed(change):
    with pytest.raises(ValueError, match="do not fit"):
        handed_on(Decoded(np.zeros((8, 5, 4), np.int16), np.eye(4)), **change)


def test_a_refusal_of_no_known_kind_is_a_plain_one():
    words = {"kind": "contextmanager", "message": "m", "code": "E-X", "remedy": "", "file": None}
    assert type(Refusal(**words).error()) is MedsegError


def test_every_field_of_what_is_decoded_makes_the_way():
    affine = np.array([[np.nan, 0.1, -2, 3e-7], [0, np.inf, 1 / 3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    decoded = Decoded(np.zeros((2, 3, 4), np.int16), affine, ("W-X",), "HU", "CT")
    again = handed_on(decoded)
    np.testing.assert_array_equal(again.affine, affine)
    words = {field.name for field in dataclasses.fields(decoded)} - {"array", "affine"}
    assert [getattr(again, word) for word in words] == [getattr(decoded, word) for word in words]
    assert None not in [getattr(decoded, word) for word in words]
