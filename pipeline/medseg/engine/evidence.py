"""What is kept of a step without a finite result: its batch, as it was drawn and as the network saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from medseg.core.document import Document
from medseg.core.errors import InputError, MedsegError
from medseg.engine.distributed import elsewhere
from medseg.io.files import write_text
from medseg.io.weights import load_metadata, load_tensors, save_tensors
from medseg.nn.ranks import everybodys, how_many, own_rank

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from medseg.data.batch import Batch
    from medseg.nn.network import Output

_KEY = "evidence"


class Evidence(Document):
    """What is known of a batch that was kept."""

    reason: str
    seed: int
    step: int
    cases: tuple[str, ...] = Field(description="of each sample of the batch, in order")
    not_finite: tuple[str, ...] = Field(description="cases whose patch already holds values that are not finite")


def not_finite(what: str, batch: Batch, found: Sequence[str] = ()) -> MedsegError:
    """E-NUMERIC, naming the cases found at fault, or else the whole batch; by the process that holds them.

    Args:
        what: Went wrong, in every process alike.
        batch: This process's.
        found: Cases of this batch that are at fault.
    """
    everywhere = everybodys(found)
    if everywhere and not found:
        return elsewhere("another process holds the case at fault")
    named = sorted(set(everywhere or everybodys(batch.cases)))
    return MedsegError(
        f"{what} on case{'s' if len(named) > 1 else ''} {', '.join(named)}; no weight was changed",
        code="E-NUMERIC",
        remedy="Go on with --no-amp, or with a lower learning_rate.",
    )


def suspects(batch: Batch, output: Output) -> list[str]:
    """Cases of the samples whose input is not finite, or else whose answer is not; none when every one is finite."""
    for values in (batch.image, *output.logits[:1]):
        bad = ~torch.isfinite(values).flatten(1).all(1)
        if bool(bad.any()):
            return [case for case, is_bad in zip(batch.cases, bad.tolist(), strict=True) if is_bad]
    return []


def keep_evidence(error: MedsegError, folder: Path, drawn: Batch, seen: Batch, seed: tuple[int, int]) -> None:
    """Write the batch of a failed step and say in the error where it is.

    Of several processes those call it that hold a case at fault, or all when none is known to be: each writes its part
    under a name of its own.

    Args:
        error: Of the step.
        folder: The run's.
        drawn: The batch before augmentation.
        seen: After it.
        seed: (seed, step).
    """
    part = f"-rank-{own_rank()}" if how_many() > 1 else ""
    path = folder / f"failed-step-{seed[1]}{part}.safetensors"
    finite = torch.isfinite(drawn.image).flatten(1).all(1).tolist()
    evidence = Evidence(
        reason=error.message,
        seed=seed[0],
        step=seed[1],
        cases=drawn.cases,
        not_finite=tuple(case for case, is_finite in zip(drawn.cases, finite, strict=True) if not is_finite),
    )
    tensors = {"drawn_image": drawn.image, "drawn_labels": drawn.labels}
    tensors |= {"image": seen.image, "labels": seen.labels, "known": seen.known}
    tensors |= {f"class.{head}": values for head, values in seen.classes.items()}
    if seen.clinical.numel():
        tensors["clinical"] = seen.clinical
    tensors |= {f"value.{name}": values for name, values in seen.values.items()}
    try:
        save_tensors(path, tensors, {_KEY: evidence.to_json()})
        write_text(path.with_suffix(".json"), evidence.to_json())
    except InputError as full:
        error.remedy += f" The batch could not be kept: {full.message}."
        return
    error.file = path
    error.remedy += f" See the batch: `medseg train --preview --batch {path}`."


def read_evidence(path: Path) -> tuple[Evidence, dict[str, Tensor]]:
    """What was kept, and its tensors: `drawn_image`, `drawn_labels`, `image`, `labels`, `known`, `class.<head>`,
    `value.<target>`, and `clinical` where the plan has such columns.

    Raises:
        InputError: The file cannot be read, or E-NOT-EVIDENCE.
        ModelError: E-WEIGHTS when it is damaged.
    """
    tensors, words = load_tensors(path), load_metadata(path)
    if _KEY not in words:
        raise InputError(
            "this file holds no batch of a training step",
            code="E-NOT-EVIDENCE",
            file=path,
            remedy="Name a `failed-step-N.safetensors` from the folder of a run.",
        )
    return Evidence.model_validate_json(words[_KEY]), tensors
