"""What a training tells while it runs: TensorBoard and one JSON line per record."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """Append to `log.jsonl` and `tensorboard/` of a run; without a folder, tell nobody."""

    def __init__(self, folder: Path | None) -> None:
        self._is_open = folder is not None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            self._lines.close()
            self._board.close()

    def record(self, kind: str, step: int, values: dict[str, float]) -> None:
        """`kind` groups the curves: `train` or `validation`."""
        if not self._is_open:
            return
        self._lines.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
