"""Who runs the segmentation network: torch, compiled or not, OpenVINO or ONNX Runtime, behind one call.

Every backend maps windows (B, C, *patch) to logits (B, K, *patch). What is not torch is compared with torch on a window
of the case at hand before it is used. OpenVINO and ONNX Runtime are built for one window at a time.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.errors import ModelError, UsageError
from medseg.engine.calibration import PACKAGES, Known, digest, require_as_torch, timed
from medseg.engine.devices import autocast
from medseg.engine.graphs import write_onnx, write_openvino
from medseg.engine.openvino_core import openvino_core
from medseg.engine.segment import Finest, PartedSegment, Segment, as_read, parted, reading
from medseg.io.cache import cache_folder, recall, remember
from medseg.io.files import full_disk_named, sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.engine.calibration import Name
    from medseg.nn.network import Network
    from medseg.nn.segmenter import Segmenter

# Below this much work for torch, trying the others costs more than it can save.
_WORTH_TRYING_S = 20.0
# A run as long as this is hardly lengthened by what only the first one does.
_LONG_S = 1.0
# What beats torch by less at its first run is run again, beside torch.
_CLEARLY = 1.5

logger = logging.getLogger(__name__)


class Backends:
    """The segmentation halves of an ensemble, on the backend that was asked for or measured fastest.

    Args:
        networks: Members, on their device, in evaluation mode.
        wanted: A backend, or `auto`.
        dtype: Reduced precision, or None for fp32.
        key: Identifies weights and plan, for what is remembered between runs.
    """

    def __init__(
        self, networks: Sequence[Network], wanted: Name | Literal["auto"], *, dtype: torch.dtype | None, key: str
    ) -> None:
        self.networks = networks
        self.name: Name = "torch" if wanted == "auto" else wanted
        self._auto = self._open = wanted == "auto"
        self._dtype = dtype
        # what was remembered of whole networks says nothing of their halves, nor of an image in one part
        are_parted = any(parted(network.unet) for network in networks)
        self._key = " ".join([key, *["parted"] * are_parted, "in two parts, traced"])
        self._known = Known(self._key, dtype)
        self._torch_s: float | None = None
        self._segments: list[Segment] = []
        if wanted not in {"auto", "torch"}:
            _require(self.name, networks[0])

    def segments(self, example: Tensor, num_windows: int) -> list[Segment]:
        """One callable per member.

        Args:
            example: (1, C, *patch), a window of the case at hand.
            num_windows: How many will come: what is worth trying depends on it.

        Raises:
            ModelError: `E-BACKEND` when the backend that was asked for does not answer as torch does.
        """
        if self._open:
            self._choose(example, num_windows)
        if not self._segments:
            self._segments = self._built(example)
        return self._segments

    def clear(self) -> None:
        """Let go of what was built."""
        self._segments = []

    def _built(self, example: Tensor) -> list[Segment]:
        try:
            return self._build(self.name, example)
        except ModelError as error:  # remembered as fastest, and refused when it was compared
            if not self._auto:
                raise
            logger.warning("%s is not used: %s", self.name, error.message)
            self.name = "torch"
            return self._build(self.name, example)

    def _choose(self, example: Tensor, num_windows: int) -> None:
        rivals = [name for name in PACKAGES if find_spec(PACKAGES[name])]
        if example.device.type != "cpu" or not rivals:
            self._open = False
            return
        if (known := self._known.fastest) in {"torch", *rivals}:
            self._open, self.name = False, known
            return
        if self._torch_s is not None and self._torch_s * num_windows < _WORTH_TRYING_S:
            return  # measured once, not for each of many small cases
        segments = self._build("torch", example)
        expected, self._torch_s = timed(segments, example)
        if self._torch_s < _LONG_S:
            self._torch_s = min(self._torch_s, timed(segments, example)[1])
        if self._torch_s * num_windows < _WORTH_TRYING_S:
            return
        times: dict[Name, float] = {"torch": self._torch_s}
        self._try(rivals, times, example, expected)
        self._open = False
        self._known.keep_times(times)

    def _try(self, rivals: list[Name], times: dict[Name, float], example: Tensor, expected: list[Tensor]) -> None:
        """Add the seconds of each rival that answers as torch does, and take the fastest."""
        for name in rivals:
            if name == "onnx" and self._dtype is not None and "openvino" in times:
                continue  # it has fp32 only, at twice the work of what has been measured in reduced precision
            try:
                segments, times[name] = self._compared(name, example, expected)
            except ModelError as error:
                logger.warning("%s is not used: %s", name, error.message)
                continue
            if times[name] * _CLEARLY > times["torch"]:  # its first run was slowed down, or somebody else was busy
                times["torch"] = min(times["torch"], timed(self._build("torch", example), example)[1])
                times[name] = min(times[name], timed(segments, example)[1])
            if times[name] == min(times.values()):
                self.name, self._segments = name, segments
        if times["torch"] == min(times.values()):
            self.name, self._segments = "torch", []

    def _build(self, name: Name, example: Tensor) -> list[Segment]:
        if name == "torch" or self._known.answers_as_torch(name):
            return self._members(name, example)
        expected, _ = timed(self._members("torch", example), example)
        return self._compared(name, example, expected)[0]

    def _compared(self, name: Name, example: Tensor, expected: Sequence[Tensor]) -> tuple[list[Segment], float]:
        """Every member, once all have computed what is expected of the window, and the seconds that it took them."""
        segments = self._members(name, example)
        found, seconds = timed(segments, example)
        require_as_torch(name, found, expected, dtype=self._dtype)
        self._known.keep_answers_as_torch(name)
        return segments, seconds

    def _members(self, name: Name, example: Tensor) -> list[Segment]:
        return [
            self._run(name, network.unet, example, f"{self._key}-{number}")
            for number, network in enumerate(self.networks)
        ]

    def _run(self, name: Name, unet: Segmenter, example: Tensor, key: str) -> Segment:
        # ONNX Runtime has no reduced precision for these layers on a CPU
        unet, to_read = as_read(unet, None if name == "onnx" else self._dtype)
        halves, example = parted(unet), to_read(example)
        module = (halves[0] if halves else Finest(unet)).eval()
        if name == "compiled":
            answer = _compiled(module, example, self._dtype)
        elif name == "openvino":
            answer = _openvino(module, example, self._dtype, key)
        else:
            answer = _onnx(module, example, key) if name == "onnx" else _in_torch(module, self._dtype)

        def segment(windows: Tensor) -> Tensor:
            return answer(to_read(windows))

        return PartedSegment(segment, halves[1].in_channels, reading(halves[1])) if halves else segment


def torch_segment(network: Network, dtype: torch.dtype | None) -> Segment:
    """The network itself, in evaluation mode, on the device where it lies."""
    unet, to_read = as_read(network.unet, dtype)
    answer = _in_torch(Finest(unet).eval(), dtype)
    return lambda windows: answer(to_read(windows))


def _compiled(module: nn.Module, example: Tensor, dtype: torch.dtype | None) -> Segment:
    """The network through `torch.compile`, which fails at its first use if it fails.

    Raises:
        ModelError: `E-BACKEND`.
    """
    segment = _in_torch(torch.compile(module), dtype)
    try:
        segment(example)
    except Exception as error:  # compilers fail in every way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        message = f"torch.compile failed: {reason}"
        raise ModelError(message, code="E-BACKEND", remedy="Use --backend torch.") from error
    return segment


def _in_torch(finest: Segment, dtype: torch.dtype | None) -> Segment:
    def segment(windows: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(windows.device, dtype):
            return finest(windows.contiguous(memory_format=torch.channels_last_3d))

    return segment


def _openvino(module: nn.Module, example: Tensor, dtype: torch.dtype | None, key: str) -> Segment:
    with _graph("network.xml", write_openvino, module, example, key) as path:
        core = openvino_core()
        precision = "bf16" if dtype is torch.bfloat16 else "f32"
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()

    def segment(windows: Tensor) -> Tensor:
        return _batch([next(iter(request.infer({0: _array(window)}).values())) for window in windows])

    return segment


def _onnx(module: nn.Module, example: Tensor, key: str) -> Segment:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_cpu_mem_arena = False  # it would keep what the largest window took
    with _graph("network.onnx", write_onnx, module, example, key) as path:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def segment(windows: Tensor) -> Tensor:
        return _batch([session.run(None, {name: _array(window)})[0] for window in windows])

    return segment


@contextmanager
def _graph(
    name: str, write: Callable[[nn.Module, list[Tensor], Path], None], module: nn.Module, example: Tensor, key: str
) -> Iterator[Path]:
    """The network as files: from the cache when all are there whole, else made, and kept if there is a place."""
    with tempfile.TemporaryDirectory() as passing:
        kept = cache_folder("networks", digest(name, key, torch.__version__, *example.shape))
        path = (kept or Path(passing)) / name
        if not (known := recall(kept, "sha256")) or known != _hashes(path):
            with full_disk_named(path), tempfile.TemporaryDirectory(dir=path.parent) as making:
                try:
                    write(module, [example], Path(making) / name)
                except RuntimeError as error:
                    message = f"the network cannot be written for it: {str(error).splitlines()[0]}"
                    raise ModelError(message, code="E-BACKEND", remedy="Use --backend torch.") from error
                for file in Path(making).iterdir():
                    file.replace(path.with_name(file.name))
            remember(kept, "sha256", _hashes(path))
        yield path


def _hashes(path: Path) -> dict[str, str]:
    """Of a graph and what lies beside it under its name."""
    return {file.name: sha256_of(file) for file in sorted(path.parent.glob(f"{path.stem}.*"))}


def _require(name: Name, network: Network) -> None:
    if name not in PACKAGES:
        return
    if not find_spec(PACKAGES[name]):
        message = f"backend {name} needs {PACKAGES[name]}, which is not installed"
        raise UsageError(message, code="E-EXTRA", remedy=f"Run: pip install 'medseg[{name}]'")
    if next(network.parameters()).device.type != "cpu":
        message = f"backend {name} runs on the CPU only"
        raise UsageError(message, code="E-BACKEND", remedy="Add --device cpu, or use --backend torch.")


def _batch(answers: list[np.ndarray[Any, Any]]) -> Tensor:
    """Of one window without another copy: it may be as large as the window in every class."""
    return torch.from_numpy(answers[0] if len(answers) == 1 else np.concatenate(answers))


def _array(window: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(window[None].float().numpy())
