"""Everything a training needs to go on, in one safetensors file: tensors, and the rest as JSON in its header.

There is no random state to keep: every step draws from generators seeded with (seed, step).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from medseg.core.document import Document
from medseg.core.errors import InputError, ModelError, UsageError
from medseg.io.files import write_bytes
from medseg.io.weights import load_metadata, load_tensors, packed_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor, nn

CHECKPOINT = "checkpoint.safetensors"
_KEY = "progress"
_NAMED = 4  # of each kind
_HASH_LENGTH = 64


class TrainingProgress(Document):
    """How far a training has come, and what it must be resumed with."""

    step: int = 0
    samples: int = Field(default=0, description="patches seen in all steps")
    elapsed_s: float = 0.0
    next_validation: float = Field(default=0.0, description="share of the training at which the next one is due")
    validation_s: float = Field(default=0.0, description="duration of the last one")
    identity: dict[str, str] = Field(default_factory=dict, description="plan, cases and settings that must not change")

    def require(self, identity: dict[str, str], path: Path) -> None:
        """Make sure that a training of this identity may go on from here.

        Raises:
            UsageError: E-RESUME, naming what changed.
        """
        kinds = differences(self.identity, identity)
        named = [change for kind in kinds for change in kind[:_NAMED]]
        if named:
            others = sum(map(len, kinds)) - len(named)
            more = f" (and {others} more)" if others else ""
            raise UsageError(
                f"cannot go on with this training, something changed since it began: {'; '.join(named)}{more}",
                code="E-RESUME",
                file=path,
                remedy="Undo the change, or start anew with --restart or under another --name.",
            )


@dataclass(frozen=True, eq=False)
class TrainingState:
    """What changes while training."""

    network: nn.Module
    averaged: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def save_checkpoint(path: Path, progress: TrainingProgress, state: TrainingState) -> None:
    """Write the whole state, atomically.

    Raises:
        InputError: E-DISK-FULL or E-NOT-WRITABLE; the file before it is whole then.
    """
    packed = packed_checkpoint(progress, state)
    with last_one_named(path):
        write_bytes(path, packed)


@contextmanager
def last_one_named(path: Path) -> Iterator[None]:
    """Around what a training writes: where that fails, say that its last checkpoint is still there."""
    try:
        yield
    except InputError as error:
        if path.exists():
            error.remedy += " The last checkpoint is whole: the same command goes on from there."
        raise


def packed_checkpoint(progress: TrainingProgress, state: TrainingState) -> bytes:
    """What `save_checkpoint` writes."""
    tensors = {f"network.{name}": value for name, value in state.network.state_dict().items()}
    tensors |= {f"averaged.{name}": value for name, value in state.averaged.state_dict().items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in moments.items()}
    scale = {key: torch.tensor(float(value)) for key, value in state.scaler.state_dict().items()}
    tensors |= {f"scaler.{key}": value for key, value in scale.items()}
    return packed_tensors(tensors, {_KEY: progress.model_dump_json()})


def load_progress(path: Path, identity: dict[str, str]) -> TrainingProgress:
    """How far a training has come, without its tensors.

    Raises:
        ModelError: E-WEIGHTS when the file is damaged.
        UsageError: E-RESUME when the plan, the cases or a setting that shapes the training changed, naming it.
    """
    progress = TrainingProgress.model_validate_json(load_metadata(path).get(_KEY, "{}"))
    progress.require(identity, path)
    return progress


def differences(before: dict[str, str], now: dict[str, str]) -> list[list[str]]:
    """In words what of an identity changed, by kind: settings and plan, what is said of cases, files.

    One setting may be why a hundred cases differ; one case's age why the plan's mean age does, and every file. Hashes
    are not quoted.
    """
    kinds: list[list[str]] = [[], [], []]
    for key in sorted(key for key in {**before, **now} if before.get(key) != now.get(key)):
        old, new = before.get(key), now.get(key)
        is_setting, is_file = "." in key.partition(" ")[0] or " " not in key, len(old or new or "") == _HASH_LENGTH
        if is_setting:
            kinds[0].append(f"{key} was {old or 'its default'}, is {new or 'its default'}")
        elif old is None or new is None:
            kinds[2 if is_file else 1].append(f"{key} was {'added' if old is None else 'removed'}")
        else:
            kinds[2 if is_file else 1].append(f"{key} was changed" if is_file else f"{key} was {old}, is {new}")
    return kinds


def load_checkpoint(path: Path, identity: dict[str, str], state: TrainingState) -> TrainingProgress:
    """Put the state back.

    Raises:
        ModelError: E-WEIGHTS when the file is damaged.
        UsageError: E-RESUME when the plan, the cases or a setting that shapes the training changed, naming it.
    """
    progress = load_progress(path, identity)
    tensors = load_tensors(path)
    try:
        state.network.load_state_dict(_under(tensors, "network."))
        state.averaged.load_state_dict(_under(tensors, "averaged."))
    except RuntimeError as error:
        raise ModelError(
            "the checkpoint does not fit the network", code="E-WEIGHTS", file=path, remedy="Start anew with --restart."
        ) from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    scale = _under(tensors, "scaler.")
    if scale and state.scaler.is_enabled():
        fresh = state.scaler.state_dict()  # which of its numbers are whole: torch takes no other kind
        state.scaler.load_state_dict({key: type(fresh[key])(value.item()) for key, value in scale.items()})
    return progress


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
