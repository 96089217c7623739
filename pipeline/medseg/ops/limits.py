"""The range of an image, which its resampled values are kept in where a model was trained so.

A cubic spline overshoots beside sharp edges: beside bone, beside the air around the body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


class Limits:
    """Least and greatest values of an image that comes in parts, a few planes of its first axis at a time.

    Args:
        kept: The axis (1, 2 or 3 of a part) whose planes each have limits of their own; None for one range a channel.
    """

    def __init__(self, kept: int | None) -> None:
        self._kept = kept
        self._found: list[tuple[Tensor, Tensor]] = []

    def see(self, part: Tensor) -> None:
        """Take note of (C, rows, A, B), the parts in their order."""
        others = [axis for axis in (1, 2, 3) if axis != self._kept]
        self._found.append((part.amin(others, keepdim=True), part.amax(others, keepdim=True)))

    def ends(self) -> tuple[Tensor, Tensor]:
        """(C, n, m, l) least and greatest of the whole, one long along every axis but the kept one."""
        lows, highs = (torch.cat(found, dim=1) for found in zip(*self._found, strict=True))
        return (lows, highs) if self._kept == 1 else (lows.amin(1, keepdim=True), highs.amax(1, keepdim=True))
