"""How a network is written in each format, and run from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.errors import UsageError
from medseg.core.export import Format, Part
from medseg.engine.graphs import write_exported, write_onnx, write_openvino
from medseg.engine.openvino_core import openvino_core

OPSET = 18
Run = Callable[..., list[Tensor]]


@dataclass(frozen=True)
class Kind:
    """How a format is written and run; `extra` names what it needs beside torch."""

    suffix: str
    packages: tuple[str, ...]
    extra: str
    write: Callable[[nn.Module, Sequence[Tensor], Path, Part], None]
    load: Callable[[Path], Run]


def require_packages(name: Format) -> None:
    """Make sure that what writes and checks a format is there.

    Raises:
        UsageError: `E-EXTRA`.
    """
    kind = KINDS.get(name)
    missing = [package for package in (kind.packages if kind else ()) if not find_spec(package)]
    if kind and missing:
        message = f"format {name} needs {', '.join(missing)}, which is not installed"
        raise UsageError(message, code="E-EXTRA", remedy=f"Run: pip install 'medseg[{kind.extra}]'")


def _port_names(part: Part) -> dict[str, list[str]]:
    return {"input_names": [port.name for port in part.inputs], "output_names": [port.name for port in part.outputs]}


def _write_onnx(module: nn.Module, examples: Sequence[Tensor], path: Path, part: Part) -> None:
    write_onnx(module, examples, path, opset_version=OPSET, **_port_names(part))


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(*inputs: Tensor) -> list[Tensor]:
        answers = session.run(None, dict(zip(names, map(_array, inputs), strict=True)))
        return [torch.from_numpy(answer) for answer in answers]

    return run


def _write_openvino(module: nn.Module, examples: Sequence[Tensor], path: Path, part: Part) -> None:
    write_openvino(module, examples, path, **_port_names(part))


def _load_openvino(path: Path) -> Run:
    core = openvino_core()
    request = core.compile_model(
        core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()

    def run(*inputs: Tensor) -> list[Tensor]:
        answers = request.infer(dict(enumerate(map(_array, inputs))))
        return [torch.from_numpy(answer.copy()) for answer in answers.values()]

    return run


def _write_torch(module: nn.Module, examples: Sequence[Tensor], path: Path, part: Part) -> None:  # noqa: ARG001
    write_exported(module, examples, path)


def _load_torch(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda *inputs: list(answer) if isinstance(answer := module(*inputs), tuple) else [answer]


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(tensor.float().numpy())


KINDS: dict[str, Kind] = {
    "onnx": Kind(".onnx", ("onnx", "onnxscript", "onnxruntime"), "onnx", _write_onnx, _load_onnx),
    "openvino": Kind(".xml", ("openvino",), "openvino", _write_openvino, _load_openvino),
    "torch-export": Kind(".pt2", (), "", _write_torch, _load_torch),
}
