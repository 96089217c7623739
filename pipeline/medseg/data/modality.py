"""Whether the numbers of an image can be what its modality's name says."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray

from medseg.data.contents import holds_air

_OFFSET_HU = 1024
_HU = (-4096, -900, 100)


class Doubt(NamedTuple):
    """Why an image is probably not what it is said to be; code `W-INTENSITY`, `W-MODALITY` or `W-PADDING`."""

    code: str
    message: str
    remedy: str


def doubt_modality(name: str, channel: NDArray[Any]) -> Doubt | None:
    """What speaks against a channel (I, J, K) being of this modality.

    A CT in HU holds air, and nothing thinner than a vacuum: what lies below -1024 was filled in. Whatever else falls to
    -900 and below and reaches 100 looks like a CT.
    """
    low, high = float(channel.min()), float(channel.max())
    lowest, air, dense = _HU
    if name == "CT" and not holds_air(channel):
        offset = f", as if {_OFFSET_HU} had been added" if low >= 0 and high > _OFFSET_HU else ""
        message = f"CT without air: values from {low:g} to {high:g}{offset}"
        remedy = "Models made for HU will not fit it; train on it as it is, or convert it to HU."
        return Doubt("W-INTENSITY", message, remedy)
    if name == "CT" and low < -_OFFSET_HU:
        count = int((channel < -_OFFSET_HU).sum())
        message = f"{count} voxels below -{_OFFSET_HU} HU, down to {low:g}: filling outside the field of view"
        return Doubt("W-PADDING", message, "Nothing, where clipping cuts it off; statistics of whole images count it.")
    if name != "CT" and lowest <= low <= air and high >= dense:
        message = f"said to be {name}, but values from {low:g} to {high:g} look like a CT in HU"
        return Doubt("W-MODALITY", message, "Check that the right file is named.")
    return None
