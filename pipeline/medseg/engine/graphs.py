"""A network, or a part of one, as the graph that another runtime reads."""

from __future__ import annotations

import copy
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from medseg.engine.segment import shown_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor, nn


def write_onnx(module: nn.Module, examples: Sequence[Tensor], path: Path, **options: Any) -> None:
    """Write one ONNX file for inputs of the examples' shapes.

    Args:
        module: On any device.
        examples: One per input.
        path: File to write.
        **options: Of `torch.onnx.export`, such as the names of inputs and outputs.

    Raises:
        RuntimeError: When ONNX cannot express the module.
    """
    # a copy, because tracing expects another memory layout than running
    plain = copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with warnings.catch_warnings(), _only_errors("torch.onnx"), torch.no_grad():
        # tracing warns of every branch that it fixes; there is one, and it is right (`nn.network._convolve`)
        warnings.simplefilter("ignore")
        torch.onnx.export(
            plain.eval(), tuple(examples), path, dynamo=True, external_data=False, verbose=False, **options
        )
    # the exporter's rules hold on to the last graph that they simplified, and through it to the copy
    for parameter in plain.parameters():
        parameter.data = parameter.new_empty(0)


def write_openvino(
    module: nn.Module,
    examples: Sequence[Tensor],
    path: Path,
    *,
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
) -> None:
    """Write an `.xml` and beside it a `.bin`, in fp32, for inputs of the examples' shapes: straight from torch.

    This takes a third of what the way over ONNX takes. OpenVINO's own `convert_model` is not used: it runs the network
    three times, and tells its makers that it was called.

    Args:
        module: On the CPU, in evaluation mode.
        examples: One per input.
        path: File to write.
        input_names: One per input, or none.
        output_names: One per output, or none.

    Raises:
        RuntimeError: When OpenVINO cannot express the module.
    """
    import openvino
    from openvino.frontend import FrontEndManager, OpConversionFailure
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        # as above; and torch advises its newer format, whose norms OpenVINO takes apart: slower, and rounded otherwise
        warnings.simplefilter("ignore")
        shown = tuple(shown_by(module, example) for example in examples)
        traced = torch.jit.trace(module, shown, check_trace=False)  # type: ignore[no-untyped-call]
    frontend, decoder = FrontEndManager().load_by_framework("pytorch"), TorchScriptPythonDecoder(traced)
    loaded = frontend.load(decoder)
    for place, example in zip(loaded.get_inputs(), examples, strict=True):
        loaded.set_partial_shape(place, openvino.PartialShape(list(example.shape)))
    try:
        graph = frontend.convert(loaded)
    except OpConversionFailure as error:
        # the last of its many lines sums up
        message = f"OpenVINO cannot express it: {str(error).strip().splitlines()[-1].lstrip('- ')}"
        raise RuntimeError(message) from error
    for ports, names in ((graph.inputs, input_names), (graph.outputs, output_names)):
        for port, name in zip(ports, names, strict=bool(names)):
            port.set_names({name})
    openvino.save_model(graph, path, compress_to_fp16=False)


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Of a logger that warns of packages which nothing here needs."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
