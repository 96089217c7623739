"""Weights of nnU-Net's plain and residual-encoder U-Nets under this package's names and axis order.

Axes: nnU-Net's arrays run z, y, x (then transposed by its plans); here they run x, y, z, so every kernel is turned.
A bias before an instance norm has no effect and is left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_PREFIXES = ("_orig_mod.", "module.")
# nnU-Net's name -> ours, tried in this order; {level} counts as nnU-Net does, decoder from coarse to fine as here.
_NAMES = (
    (r"encoder\.stem\.convs\.0\.", "unet.stem."),
    (r"encoder\.stages\.(\d+)\.0\.convs\.(\d+)\.", r"unet.encoder.\1.\2."),
    (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv1\.", r"unet.encoder.\1.\2.first."),
    (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.conv2\.", r"unet.encoder.\1.\2.second."),
    (r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.skip\.\d+\.", r"unet.encoder.\1.\2.project."),
    (r"decoder\.stages\.(\d+)\.convs\.(\d+)\.", r"unet.decoder.\1.\2."),
    (r"decoder\.transpconvs\.(\d+)\.", r"unet.upsample.\1."),
    (r"decoder\.seg_layers\.(\d+)\.", r"unet.to_logits.\1."),
)


def convert_weights(state: Mapping[str, Tensor], axes: tuple[int, int, int]) -> dict[str, Tensor]:
    """Rename and turn.

    Args:
        state: nnU-Net's state dict.
        axes: Which of nnU-Net's axes becomes our axis 0, 1, 2.

    Returns:
        A state dict for `Network`; `load_state_dict` tells whether it is complete.

    Raises:
        KeyError: The first tensor that belongs to neither of the two networks.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        ours = _rename(name)
        if ours is None:
            continue
        turned = tensor.permute(0, 1, *(2 + axis for axis in axes)) if tensor.ndim == 5 else tensor
        converted[ours] = turned.float().contiguous()
    return converted


def _rename(name: str) -> str | None:
    """Our name; None for a tensor that is listed twice, or has no effect."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if ".all_modules." in name or name.startswith("decoder.encoder."):
        return None
    for pattern, ours in _NAMES:
        found = re.match(pattern, name)
        if found is not None:
            rest = name[found.end() :]
            if rest == "conv.bias":
                return None
            return found.expand(ours) + rest.replace("conv.", "convolution.")
    raise KeyError(name)
