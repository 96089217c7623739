"""What a training tells while it runs: TensorBoard and one JSON line per record."""

from __future__ import annotations

import json
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch.utils.tensorboard import SummaryWriter

from medseg.io.files import full_disk_named, write_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

LOG = "log.jsonl"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log, none without one; a last line that was cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Journal:
    """Append to `log.jsonl` and `tensorboard/` of a run.

    Args:
        folder: The run's; None tells nobody.
        step: Where this session starts; what an earlier one told of later steps, before it was killed, is taken back.
    """

    def __init__(self, folder: Path | None, *, step: int = 0) -> None:
        self._is_open = folder is not None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._log = log = folder / LOG
        # What is told at the very step of a checkpoint comes before it, but for its validation.
        kept = (record for record in read_log(log) if record["step"] < step + (record["kind"] != "validation"))
        write_text(log, "".join(f"{json.dumps(record)}\n" for record in kept))
        self._lines = log.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_open:
            return
        # What could not be written before cannot be written now: the first error is the one to tell.
        with suppress(OSError) if error is not None else full_disk_named(self._log):
            try:
                self._lines.close()
            finally:
                self._board.close()

    def picture(self, name: str, step: int, picture: NDArray[np.uint8]) -> None:
        """Show (rows, columns, 3) on the board."""
        if not self._is_open:
            return
        with full_disk_named(self._log):
            self._board.add_image(name, picture, step, dataformats="HWC")

    def note(self, kind: str, step: int, facts: dict[str, Any]) -> None:
        """What is no curve."""
        if not self._is_open:
            return
        with full_disk_named(self._log):
            self._lines.write(json.dumps({"kind": kind, "step": step, **facts}) + "\n")
            self._lines.flush()

    def record(self, kind: str, step: int, values: dict[str, float]) -> None:
        """`kind` groups the curves: `train`, `validation` or `use`."""
        if not self._is_open:
            return
        with full_disk_named(self._log):
            self._lines.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._lines.flush()
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
