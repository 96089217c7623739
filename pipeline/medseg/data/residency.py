"""Where the cases of a training are kept: on the GPU, in memory, or in the store's files.

The batches are bit for bit the same wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from medseg.core.document import Document
from medseg.core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

GIB = 2**30
Place = Literal["gpu", "ram", "files"]
_WORDS: dict[Place, str] = {
    "gpu": "on the GPU",
    "ram": "in memory",
    "files": "in the files of the store, of which each patch reads its part",
}


class Residency(Document):
    """The choice, and what it was made by.

    Attributes:
        place: Where all cases of the training are.
        data_gib: Their size.
        ram_gib: That they might take in memory.
        gpu_gib: That they might take on the GPU, beside a step; 0 without one.
    """

    place: Place
    data_gib: float
    ram_gib: float
    gpu_gib: float = 0.0

    @property
    def words(self) -> str:
        room = f"{self.ram_gib:.3g} GiB of memory may be taken"
        if self.gpu_gib:
            room += f", {self.gpu_gib:.3g} GiB of the GPU"
        return f"{self.data_gib:.3g} GiB of cases are kept {_WORDS[self.place]} ({room})"


IN_MEMORY = Residency(place="ram", data_gib=0.0, ram_gib=0.0)


def choose(data_bytes: int, *, ram_bytes: float, gpu_bytes: float = 0.0) -> Residency:
    """The fastest place that holds all cases."""
    place: Place = "files"
    if data_bytes <= ram_bytes:
        place = "ram"
    if data_bytes <= gpu_bytes:
        place = "gpu"
    return Residency(
        place=place, data_gib=data_bytes / GIB, ram_gib=max(ram_bytes, 0) / GIB, gpu_gib=max(gpu_bytes, 0) / GIB
    )


@dataclass(frozen=True)
class FiledTensor:
    """A tensor in a safetensors file, of which a part is read when it is asked for.

    The file is mapped for that moment only: what was read does not stay with the process.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    case: str

    def __len__(self) -> int:
        return self.shape[0]

    def numel(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count

    def __getitem__(self, part: Any) -> Tensor:
        """Args: part: slices, as of a tensor.

        Raises:
            InputError: E-STORE-DAMAGED when the file went or was cut since it was verified.
        """
        try:
            with safe_open(self.path, framework="pt") as opened:
                read: Tensor = opened.get_slice(self.name)[part].clone()
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"this file of the store can no longer be read ({error})",
                code="E-STORE-DAMAGED",
                file=self.path,
                case=self.case,
                remedy="Leave the store alone while it is trained on; run `medseg preprocess` again.",
            ) from error
        return read


def filed_tensors(path: Path, *, case: str) -> dict[str, FiledTensor]:
    """All tensors of a case's file, none of them read."""
    with safe_open(path, framework="pt") as opened:
        names = list(opened.keys())
        return {name: FiledTensor(path, name, tuple(opened.get_slice(name).get_shape()), case) for name in names}
