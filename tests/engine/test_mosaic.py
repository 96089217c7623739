"""Pictures of patches on the board."""

import numpy as np
import torch

from medseg.engine.mosaic import mosaic


def test_the_slice_with_the_label_is_shown_with_both_outlines_and_a_mirror_image_is_not_shown():
    image = torch.zeros(1, 1, 8, 6, 5)
    image[0, 0, 0, 5, 3] = 1.0  # the patient's left edge of the array (low x), front
    reference, answer = torch.zeros(1, 8, 6, 5, dtype=torch.uint8), torch.zeros(1, 8, 6, 5, dtype=torch.long)
    reference[0, 2:6, 1:5, 3] = 1
    reference[0, :, 0, 3] = 255
    answer[0, 6:8, 0:2, 3] = 2
    picture = mosaic(image, reference, answer)
    times = 192 // 8
    assert picture.shape == (6 * times, 2 * 8 * times + 4, 3)
    left, right = picture[:, : 8 * times], picture[:, 8 * times + 4 :]
    coloured = [np.argwhere(tile.max(2) != tile.min(2)) for tile in (left, right)]
    # Rows run from front (high y) to back, columns from low to high x.
    assert (coloured[0].min(0) == (1 * times, 2 * times)).all()
    assert (coloured[0].max(0) == (5 * times - 1, 6 * times - 1)).all()
    assert (coloured[1].min(0) == (4 * times, 6 * times)).all()
    assert (coloured[1].max(0) == (6 * times - 1, 8 * times - 1)).all()
    assert (left[:times, :times] == 255).all()
    assert (left[3 * times - 5, 4 * times - 5] == 0).all()  # inside there is no colour, only the image


def test_many_samples_make_at_most_four_rows_and_nothing_finite_is_needed():
    image = torch.full((6, 2, 4, 4, 4), float("nan"))
    image[:, :, 0, 0, 0] = 1.0
    empty = torch.zeros(6, 4, 4, 4, dtype=torch.uint8)
    assert mosaic(image, empty, empty.long()).shape == (4 * 192 + 3 * 4, 2 * 192 + 4, 3)
