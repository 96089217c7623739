"""Parts of a case, wherever it is kept: of one in a file only the part is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from medseg.core.geometry import Shape
    from medseg.data.residency import FiledTensor
    from medseg.data.store import LoadedCase


def crop_case(case: LoadedCase, start: NDArray[np.int_], size: Shape) -> tuple[Tensor, Tensor]:
    """(C, *size) float32 and (*size) uint8; outside the case the image is 0 and the label ignored."""
    image = crop(case.image, start, size).float()
    if not case.labels.numel():
        return image, torch.full(size, IGNORE_INDEX, dtype=torch.uint8, device=image.device)
    return image, crop(case.labels, start, size, fill=IGNORE_INDEX)


def crop(array: Tensor | FiledTensor, start: NDArray[np.int_], size: Shape, *, fill: int = 0) -> Tensor:
    """(..., I, J, K) to (..., *size) from `start`, which may lie outside."""
    inside: list[slice] = []
    padding: list[int] = []
    for first, length, whole in zip(start, size, array.shape[-3:], strict=True):
        low, high = min(max(int(first), 0), whole), min(max(int(first) + length, 0), whole)
        inside.append(slice(low, high))
        before = min(max(-int(first), 0), length)
        padding = [before, length - before - (high - low), *padding]
    part: Any = (..., *inside)
    return functional.pad(array[part], padding, value=fill)
