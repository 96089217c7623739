"""Network weights as safetensors: nothing is ever unpickled, and every tensor's bytes are checked on the way in."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from medseg.core.errors import ModelError
from medseg.io.files import require_file, sha256_of, write_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_DIGEST_KEY = "sha256_of_tensors"


def save_tensors(path: Path | str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors atomically, with a digest of their contents in the header."""
    write_bytes(path, packed_tensors(tensors, metadata))


def packed_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """What `save_tensors` writes."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    packed: bytes = save(plain, {**(metadata or {}), _DIGEST_KEY: _digest(plain)})
    return packed


def load_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read named tensors to the CPU.

    Raises:
        InputError: The file is missing or may not be read.
        ModelError: `E-WEIGHTS`, the file is cut, damaged or not a safetensors file.
    """
    file = require_file(path)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(file, f"not a whole safetensors file ({error})") from error
    if metadata.get(_DIGEST_KEY, digest := _digest(tensors)) != digest:
        raise _damaged(file, "its tensors are not the ones that were saved (SHA-256 differs)")
    return tensors


def load_metadata(path: Path | str) -> dict[str, str]:
    """Read the header's words only.

    Raises:
        ModelError: `E-WEIGHTS`, the file is cut, damaged or not a safetensors file.
    """
    file = require_file(path)
    try:
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, str] = dict(opened.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(file, f"not a whole safetensors file ({error})") from error
    metadata.pop(_DIGEST_KEY, None)
    return metadata


def verify_sha256(path: Path | str, expected: str) -> None:
    """Compare a file's SHA-256 with what a model's manifest says.

    Raises:
        ModelError: `E-HASH`.
    """
    found = sha256_of(path)
    if found != expected.lower():
        raise ModelError(
            f"SHA-256 must be {expected}, found {found}",
            code="E-HASH",
            file=path,
            remedy="The file was changed or damaged after the model was made: copy the model again from its source.",
        )


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _damaged(file: Path, found: str) -> ModelError:
    return ModelError(
        found, code="E-WEIGHTS", file=file, remedy="Copy the model again from its source, or use an earlier checkpoint."
    )
