"""A network, or a part of one, as the graph that another runtime reads.

What is written may leave the house: it tells nothing of the machine, such as the folders that code was traced in.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from medseg.engine.segment import shown_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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
        made = torch.onnx.export(plain.eval(), tuple(examples), dynamo=True, verbose=False, **options)
    program = cast("torch.onnx.ONNXProgram", made)
    for node in program.model.graph:
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)
    program.save(path, external_data=False)
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


def write_exported(module: nn.Module, examples: Sequence[Tensor], path: Path) -> None:
    """Write a `.pt2` of `torch.export` for inputs of the examples' shapes."""
    with torch.no_grad():
        program = torch.export.export(module, tuple(examples))
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def write_script(module: nn.Module, examples: Sequence[Tensor], path: Path) -> nn.Module:
    """Write TorchScript for inputs of the examples' shapes, which MONAI loads without code of ours.

    Returns:
        What was written, loaded again.
    """
    with warnings.catch_warnings(), torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        # torch advises its newer format, which MONAI does not load; on the fixed branch see `write_onnx`
        warnings.simplefilter("ignore")
        script = torch.jit.trace(module, tuple(examples))  # type: ignore[no-untyped-call]
        torch.jit.save(script, Path(folder) / path.name)
        with zipfile.ZipFile(Path(folder) / path.name) as traced, zipfile.ZipFile(path, "w") as written:
            for entry in traced.infolist():
                if not entry.filename.endswith(".debug_pkl"):  # lines of the source, with its folders
                    written.writestr(entry, traced.read(entry))
        return torch.jit.load(path)  # type: ignore[no-any-return, no-untyped-call]


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
