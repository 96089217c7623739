"""What a backend takes for a window on this machine, whether it answers as torch does, and what is remembered of both.

One run on a window of the case at hand says both. The window has its full size: a graph is made for one size, and
small windows flatter or blame a backend by a quarter. Torch is asked in the precision in use, which is what the others
replace.
"""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from medseg.core.errors import ModelError
from medseg.engine.segment import PartedSegment, Segment
from medseg.io.cache import cache_folder, recall, remember

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

Name = Literal["torch", "compiled", "openvino", "onnx"]

PACKAGES: dict[Name, str] = {"openvino": "openvino", "onnx": "onnxruntime"}
_TOLERANCE = {torch.bfloat16: 0.05, None: 1e-3}


@dataclass(frozen=True)
class Known:
    """What was found out of a model's backends on this machine, between runs; nothing where there is no cache.

    Attributes:
        key: Identifies weights and plan.
        dtype: Reduced precision, or None for fp32.
    """

    key: str
    dtype: torch.dtype | None

    @property
    def fastest(self) -> str | None:
        """The backend that was measured fastest."""
        return self._recalled().get("fastest")

    def keep_times(self, seconds_per_window: dict[Name, float]) -> None:
        """Remember which was fastest, and what each took."""
        fastest = min(seconds_per_window, key=lambda name: seconds_per_window[name])
        self._remember({"fastest": fastest, "seconds_per_window": seconds_per_window})

    def answers_as_torch(self, name: Name) -> bool:
        """Whether a backend was compared: the same weights in the same versions need no second look."""
        return self._recalled(f"-{name}").get("answers_as_torch") is True

    def keep_answers_as_torch(self, name: Name) -> None:
        """Remember that a backend was compared."""
        self._remember({"answers_as_torch": True}, f"-{name}")

    def _recalled(self, suffix: str = "") -> dict[str, Any]:
        return recall(cache_folder("backends"), self._stem + suffix)

    def _remember(self, values: dict[str, Any], suffix: str = "") -> None:
        remember(cache_folder("backends"), self._stem + suffix, values)

    @property
    def _stem(self) -> str:
        packages = []
        for package in ("torch", *PACKAGES.values()):
            try:
                packages.append(version(package))
            except PackageNotFoundError:
                packages.append("")
        return digest(self.key, self.dtype, platform.processor(), platform.node(), torch.get_num_threads(), *packages)


def timed(segments: Iterable[Segment], window: Tensor) -> tuple[list[Tensor], float]:
    """What every member computes of a window, of parted ones the features, and the seconds of all of them."""
    answers, total = [], 0.0
    for segment in segments:
        compute = segment.features if isinstance(segment, PartedSegment) else segment
        start = time.perf_counter()
        answers.append(compute(window))
        total += time.perf_counter() - start
    return answers, total


def require_as_torch(
    name: Name, found: Sequence[Tensor], expected: Sequence[Tensor], *, dtype: torch.dtype | None
) -> None:
    """Compare what the members compute with what they compute in torch.

    Raises:
        ModelError: `E-BACKEND`.
    """
    tolerance = _TOLERANCE.get(dtype, _TOLERANCE[torch.bfloat16])
    for mine, theirs in zip(found, expected, strict=True):
        error = float((mine.float() - theirs.float()).norm() / theirs.float().norm().clamp(min=1e-8))
        if not error <= tolerance:
            raise ModelError(
                f"{name} answers {error:.2g} away from torch on a window of this case, more than {tolerance:g}",
                code="E-BACKEND",
                remedy="Use --backend torch.",
            )


def digest(*parts: object) -> str:
    """A name for a file that holds for exactly these."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:32]
