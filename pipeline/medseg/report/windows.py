"""Which grey values are shown between black and white."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg.io.packaged import named_windows

# The windows that a page offers, by their names among the presets; each costs a picture.
_SHOWN = ("soft_tissue", "lung", "bone", "brain")
_MAX_SAMPLES = 1_000_000
_AIR_HU = -500.0
_LONG_SIDE_PX = 400
_NUM_GREYS = 64


@dataclass(frozen=True)
class Window:
    """Grey values from black (`low`) to white (`high`), in the image's own unit."""

    name: str
    low: float
    high: float
    unit: str = ""

    @property
    def limits(self) -> str:
        text = f"{self.low:.4g} to {self.high:.4g}".replace("-", "\N{MINUS SIGN}")
        return f"{text} {self.unit}" if self.unit else text

    def png(self, values: NDArray[Any], size_mm: tuple[float, float]) -> bytes:
        """(rows, columns) as displayed, `size_mm` wide and high, to a grey PNG in true proportions.

        In 64 greys: finer steps are mostly the scanner's noise, which does not compress, and pages must stay small.
        """
        scale = _LONG_SIDE_PX / max(size_mm)
        width, height = (max(1, round(length * scale)) for length in size_mm)
        span = max(self.high - self.low, 1e-9)
        shares = np.nan_to_num((values.astype(np.float32) - self.low) / span, nan=0.0)
        # Far outliers would ring into their surroundings when interpolated; a width beyond the window is enough.
        limited = np.ascontiguousarray(shares.clip(-1, 2), dtype=np.float32)
        method = Image.Resampling.LANCZOS if values.shape[1] > width else Image.Resampling.BICUBIC
        resized = np.asarray(Image.fromarray(limited).resize((width, height), method))
        stream = io.BytesIO()
        greys = (resized.clip(0, 1) * (_NUM_GREYS - 1)).round() * (255 / (_NUM_GREYS - 1))
        Image.fromarray(greys.round().astype(np.uint8)).save(stream, "PNG")
        return stream.getvalue()


def windows_for(image: NDArray[Any], inside: NDArray[Any], *, modality: str | None) -> list[Window]:
    """The windows worth showing, the best first.

    CT: soft tissue, unless the median inside the structures lies outside it (lung below, bone above), then the other
    presets. Anything else: one window from the 0.5th to the 99.5th percentile of the image.

    Args:
        image: (I, J, K), any unit; taken as CT in HU when `modality` says so, or says nothing and the image holds air.
        inside: (N,) values inside the structures of interest; may be empty.
        modality: `CT`, `MRI`, `PET`, `US`, or None when unknown.
    """
    sample = _sample(image)
    low, high = (float(limit) for limit in np.percentile(sample, (0.5, 99.5))) if sample.size else (0.0, 1.0)
    if not (modality.upper() == "CT" if modality else low <= _AIR_HU < 0 < high):
        return [Window("0.5th to 99.5th percentile", low, high)]
    found = _sample(inside)
    median = float(np.median(found)) if found.size else 0.0
    presets = named_windows()
    soft_low, soft_high = presets["soft_tissue"]
    best = "lung" if median < soft_low else "bone" if median > soft_high else "soft_tissue"
    names = sorted(_SHOWN, key=lambda name: name != best)
    return [Window(name.replace("_", " "), *presets[name], "HU") for name in names]


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """At most about a million finite values, evenly spread."""
    step = max(1, int(np.ceil((values.size / _MAX_SAMPLES) ** (1 / values.ndim))))
    sample = values[(slice(None, None, step),) * values.ndim]
    return np.asarray(sample[np.isfinite(sample)])
