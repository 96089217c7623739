"""`medseg train`: store -> network -> bundle."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.core.errors import UsageError
from medseg.core.progress import Progress, silent
from medseg.data.splits import Split, split_cases
from medseg.data.store import Store, open_store
from medseg.engine.clock import Status
from medseg.engine.distributed import Ranks, joined
from medseg.engine.train import Run, fit
from medseg.io.bundle import MANIFEST, BundleManifest, write_bundle
from medseg.io.documents import read_document
from medseg.io.files import require_writable, write_text
from medseg.workflows.model_card import model_card
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medseg.core.settings import TrainSettings
    from medseg.workflows.workspace import Workspace


@dataclass(frozen=True)
class Trained:
    """Where the model is and how good it is.

    Attributes:
        bundle: Its folder.
        validation: Scores on the cases held back.
        finished: False when somebody asked to stop; the same command goes on.
        was_done: The run had already finished before; nothing was trained.
    """

    bundle: Path
    validation: dict[str, float]
    finished: bool
    was_done: bool = False


def train(
    workspace: Workspace,
    settings: TrainSettings,
    *,
    name: str | None = None,
    restart: bool = False,
    progress: Progress = silent,
    watch: Callable[[Status], None] = lambda _: None,
) -> Trained:
    """Train on the workspace's store, or go on with the training of that name.

    Args:
        workspace: With a store from `preprocess`.
        settings: Length, split, optimiser, device.
        name: Of the run; by default the fold.
        restart: Throw an earlier training of that name away.
        progress: Wraps the loading of cases.
        watch: Told after every step.

    Under torchrun every process calls it; process 0 writes, and watches.

    Raises:
        ModelError: E-NO-STORE without preprocessed data.
        UsageError: E-SPLIT, E-RESUME, E-DEVICE, E-RANKS, E-RANKS-DIFFER.
        ResourceError: E-RANK-LOST.
    """
    with joined(settings.device, timeout_s=settings.rank_timeout_s) as ranks:
        here = settings.model_copy(update={"device": ranks.device(settings.device)})
        if not ranks.is_writer:
            progress, watch = silent, _nobody
        return _train(workspace, here, ranks=ranks, name=name, restart=restart, progress=progress, watch=watch)


def _nobody(_status: Status) -> None:
    """Watches a process that leaves telling to another."""


def _train(
    workspace: Workspace,
    settings: TrainSettings,
    *,
    ranks: Ranks,
    name: str | None,
    restart: bool,
    progress: Progress,
    watch: Callable[[Status], None],
) -> Trained:
    store = open_store(workspace.store)
    split = _usable_split(store, settings)
    folder = workspace.runs / (name or ("main" if settings.fold is None else f"fold{settings.fold}"))
    if restart and folder.exists() and ranks.is_writer:
        shutil.rmtree(folder)
    ranks.any(restart)
    done = _already_done(folder)
    if done is not None:
        return done
    if ranks.is_writer:
        require_writable(folder)
    cases = [store.load(case) for case in progress(split.train, "loading training cases", len(split.train))]
    held_back = [store.load(case) for case in progress(split.val, "loading validation cases", len(split.val))]
    writer = _BundleWriter(folder, store, split, settings, ranks)
    writer.begin()
    fitted = fit(
        store.plan,
        cases,
        held_back,
        settings=settings,
        run=Run(folder, _identity(store, split, settings), watch, writer.early, ranks),
    )
    if fitted.finished:
        writer.write(fitted.weights, fitted.validation, finished=True)
    return Trained(folder / "bundle", fitted.validation, fitted.finished)


def _usable_split(store: Store, settings: TrainSettings) -> Split:
    """The split without the cases that could not be preprocessed."""
    usable = {case.id for case in store.index.cases}
    split = split_cases(store.dataset, fold=settings.fold, num_folds=settings.num_folds)
    split = Split(*(tuple(case for case in part if case in usable) for part in (split.train, split.val)))
    if not split.train:
        raise UsageError("no case is left to train on", code="E-SPLIT", remedy="See `medseg check`.")
    return split


def _already_done(folder: Path) -> Trained | None:
    if not (folder / "bundle" / MANIFEST).is_file():
        return None
    manifest = read_document(folder / "bundle" / MANIFEST, BundleManifest)
    return Trained(folder / "bundle", manifest.validation, finished=True, was_done=True) if manifest.finished else None


def _identity(store: Store, split: Split, settings: TrainSettings) -> dict[str, str]:
    """What must not change between a checkpoint and its resumption; the length may."""
    files = {case.id: case.sha256 for case in store.index.cases}
    shaping = settings.model_dump(mode="json", exclude={"budget", "epochs", "device", "rank_timeout_s"})
    return {
        "plan": _digest(store.plan.to_json()),
        "training cases": _digest(json.dumps([(case, files[case]) for case in split.train])),
        **{f"train.{key}": str(value) for key, value in shaping.items()},
    }


@dataclass(frozen=True)
class _BundleWriter:
    """Writes the run's bundle: early ones while it trains, the last one at its end; of several processes the first."""

    folder: Path
    store: Store
    split: Split
    settings: TrainSettings
    ranks: Ranks

    def begin(self) -> None:
        if self.ranks.is_writer:
            write_text(self.folder / "settings.json", self.settings.to_json())

    def early(self, weights: dict[str, Tensor], validation: dict[str, float]) -> None:
        self.write(weights, validation, finished=False)

    def write(self, weights: dict[str, Tensor], validation: dict[str, float], *, finished: bool) -> None:
        if not self.ranks.is_writer:
            return
        plan, dataset = self.store.plan, self.store.dataset
        manifest = BundleManifest(
            name=f"{dataset.name}-{self.folder.name}",
            dataset=dataset.name,
            licence=dataset.licence,
            labels=dataset.labels,
            heads=dataset.heads,
            channels=dataset.channels,
            num_training_cases=len(self.split.train),
            num_validation_cases=len(self.split.val),
            training_cases=self.split.train,
            validation=validation,
            finished=finished,
            sha256={},
            provenance=make_provenance(dataset.name, self.settings),
        )
        write_bundle(
            self.folder / "bundle",
            manifest,
            plan,
            weights=[weights],
            metrics=json.dumps({"validation": validation, "history": self._history()}, indent=2) + "\n",
            card=model_card(manifest, plan),
            fingerprint=self.store.fingerprint(),
        )

    def _history(self) -> list[dict[str, float]]:
        """Every validation of the run, from its log."""
        log = self.folder / "log.jsonl"
        records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        return [record for record in records if record.pop("kind") == "validation"]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
