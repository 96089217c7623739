"""`medseg train`: store -> network -> bundle."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from medseg.core.errors import UsageError
from medseg.core.progress import Progress, silent
from medseg.data.patches import require_foreground
from medseg.data.splits import Split, split_cases
from medseg.data.store import LoadedCase, Store, open_store
from medseg.engine.checkpoint import CHECKPOINT, last_one_named
from medseg.engine.clock import Status, require_time
from medseg.engine.devices import pick_device
from medseg.engine.distributed import Ranks, joined
from medseg.engine.journal import LOG, read_log
from medseg.engine.stop import Stopped, stop_requests
from medseg.engine.train import Fitted, Run, fit, has_ended
from medseg.io.bundle import MANIFEST, BundleManifest, write_bundle
from medseg.io.documents import read_document
from medseg.io.files import write_text
from medseg.workflows.claim import claimed_run
from medseg.workflows.fine_tune import REPORT, start_from
from medseg.workflows.model_card import model_card
from medseg.workflows.provenance import make_provenance
from medseg.workflows.residency import require_room, residency_of
from medseg.workflows.sameness import training_identity
from medseg.workflows.train_warnings import collapse_warnings, foreseen_warnings, short_warnings

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from medseg.core.settings import TrainSettings
    from medseg.core.transfer import Transfer
    from medseg.data.residency import Place
    from medseg.workflows.workspace import Workspace

RESIDENCY = "residency.json"


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """Where the model is and how good it is.

    Attributes:
        bundle: Its folder.
        validation: Scores on the cases held back.
        finished: False when somebody asked to stop; the same command goes on.
        was_done: The run had already come to this end before; nothing was trained.
        transfer: What it took over from another model.
        warnings: W- codes and words, as in the bundle.
    """

    bundle: Path
    validation: dict[str, float]
    finished: bool
    was_done: bool = False
    transfer: Transfer | None = None
    warnings: tuple[str, ...] = ()


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

    Under torchrun every process calls it; process 0 writes and watches.

    Raises:
        ModelError: E-NO-STORE without preprocessed data.
        UsageError: E-BUDGET, E-SPLIT, E-RESUME, E-RUN-KIND, E-DEVICE, E-RANKS, E-RANKS-DIFFER.
        BatchError: E-LOCKED while another training runs in the folder.
        ResourceError: E-RANK-LOST; E-MEMORY when a step does not fit.
    """
    require_time(settings)
    with joined(settings.device, timeout_s=settings.rank_timeout_s) as ranks:
        store = open_store(workspace.store)
        split = usable_split(store, settings)
        folder = workspace.run(name, settings.fold)
        with claimed_run(folder, emptied=restart) if ranks.is_writer else nullcontext():
            ranks.any(False)  # nobody looks into the folder before it was emptied
            if not ranks.is_writer:
                progress, watch = silent, _nobody
            return _train(store, split, settings, ranks, folder=folder, progress=progress, watch=watch)


def _nobody(*_: object) -> None:
    """Hears of a training, and leaves telling to another process."""


def _train(
    store: Store,
    split: Split,
    settings: TrainSettings,
    ranks: Ranks,
    *,
    folder: Path,
    progress: Progress,
    watch: Callable[[Status], None],
) -> Trained:
    plan = store.plan.model_copy(update={"batch_size": settings.batch_size or store.plan.batch_size})
    ranks.slots(plan.batch_size)  # more processes than patches are refused before anything is loaded
    start: dict[str, Tensor] = {}
    transfer = None
    if settings.init_from is not None:
        start, transfer = start_from(settings.init_from, plan, seed=settings.seed)
    identity = training_identity(store, split, settings, transfer)
    finished, has_checkpoint, end = _finished_bundle(folder), (folder / CHECKPOINT).is_file(), None
    if has_checkpoint:
        sizes = {"num_cases": len(split.train), "num_held_back": len(split.val)}
        end = has_ended(folder, identity, plan, settings, **sizes)
    # Without a checkpoint nothing can go on from a finished model; with one, the model may be of a shorter training.
    if finished and (not has_checkpoint or end == finished.num_steps):
        return Trained(
            folder / "bundle",
            finished.validation,
            finished=True,
            was_done=True,
            transfer=transfer,
            warnings=finished.warnings,
        )
    here = settings.model_copy(update={"device": ranks.device(settings.device)})
    require_room(plan, here)
    residency = residency_of(store, (*split.train, *split.val), plan, here)
    try:
        load = partial(_load, store, folder=folder, progress=progress, place=residency.place, device=here.device)
        cases = load(split.train, what="loading training cases")
        held_back = load(split.val, what="loading validation cases")
        stopped = False
    except Stopped:
        stopped = True
    if ranks.any(stopped):
        return Trained(folder / "bundle", {}, finished=False)
    require_foreground(cases, plan)
    unseen = foreseen_warnings(cases, store, split)
    if ranks.is_writer:
        for warning in unseen:
            logger.warning(warning)
        logger.info(residency.words)
        write_text(folder / RESIDENCY, residency.to_json())
        write_text(folder / "settings.json", settings.to_json())
        if transfer is not None:
            write_text(folder / REPORT, transfer.to_json())
    writer = _BundleWriter(folder, store, split, settings, unseen)
    # While a finished training is made longer its model stays until the better one is there.
    early = writer.early if finished is None and ranks.is_writer else _nobody
    run = Run(folder, identity, watch, early, ranks, start, residency)
    fitted = fit(plan, cases, held_back, settings=here, run=run)
    warnings = (*unseen, *_found_at_the_end(fitted, settings, steps_per_epoch=math.ceil(len(cases) / plan.batch_size)))
    if fitted.finished and ranks.is_writer:
        writer.write(fitted.weights, fitted.validation, warnings, num_steps=fitted.progress.step)
    return Trained(folder / "bundle", fitted.validation, fitted.finished, transfer=transfer, warnings=warnings)


def _found_at_the_end(fitted: Fitted, settings: TrainSettings, *, steps_per_epoch: int) -> tuple[str, ...]:
    collapsed, made = collapse_warnings(fitted.validation), fitted.progress
    if not fitted.finished:
        return collapsed
    step_s = made.elapsed_s / max(made.step, 1)
    short = short_warnings(settings, num_steps=made.step, steps_per_epoch=steps_per_epoch, seconds_per_step=step_s)
    return (*collapsed, *short)


def _load(
    store: Store, chosen: Sequence[str], *, folder: Path, progress: Progress, what: str, place: Place, device: str
) -> list[LoadedCase]:
    """Read cases, or where they stay in their files verify them.

    Raises:
        Stopped: When somebody asked to stop meanwhile.
    """
    cases = []
    with stop_requests(folder) as stop_asked:
        for case in progress(chosen, what, len(chosen)):
            if stop_asked():
                raise Stopped
            cases.append(store.load(case, place, pick_device(device)))
        if stop_asked():  # while the last one was read
            raise Stopped
    return cases


def usable_split(store: Store, settings: TrainSettings) -> Split:
    """The split without the cases that could not be preprocessed.

    Raises:
        UsageError: E-SPLIT when none is left to train on.
    """
    usable = {case.id for case in store.index.cases}
    split = split_cases(
        store.dataset, fold=settings.fold, num_folds=settings.num_folds, stratify_by=settings.stratify_by
    )
    split = Split(*(tuple(case for case in part if case in usable) for part in (split.train, split.val)))
    if not split.train:
        raise UsageError("no case is left to train on", code="E-SPLIT", remedy="See `medseg check`.")
    return split


def _finished_bundle(folder: Path) -> BundleManifest | None:
    if not (folder / "bundle" / MANIFEST).is_file():
        return None
    manifest = read_document(folder / "bundle" / MANIFEST, BundleManifest)
    return manifest if manifest.finished else None


@dataclass(frozen=True)
class _BundleWriter:
    """Writes the run's bundle: early ones while it trains, the last one at its end."""

    folder: Path
    store: Store
    split: Split
    settings: TrainSettings
    unseen: tuple[str, ...]

    def _optional_channels(self) -> tuple[int, ...]:
        """All when they were dropped at random, else those that training cases lacked."""
        every = range(len(self.store.plan.channels))
        if self.settings.channel_dropout and len(every) > 1:
            return tuple(every)
        cases = [case for case in self.store.index.cases if case.id in set(self.split.train)]
        return tuple(channel for channel in every if any(channel in case.missing for case in cases))

    def early(self, weights: dict[str, Tensor], validation: dict[str, float]) -> None:
        warnings = (*self.unseen, *collapse_warnings(validation))
        self.write(weights, validation, warnings, num_steps=None)

    def write(
        self,
        weights: dict[str, Tensor],
        validation: dict[str, float],
        warnings: tuple[str, ...],
        *,
        num_steps: int | None,
    ) -> None:
        """Args: num_steps: of the whole training; None while it runs."""
        plan, dataset = self.store.plan, self.store.dataset
        manifest = BundleManifest(
            name=f"{dataset.name}-{self.folder.name}",
            dataset=dataset.name,
            licence=dataset.licence,
            labels=dataset.labels,
            heads=dataset.heads,
            channels=dataset.channels,
            optional_channels=self._optional_channels(),
            num_training_cases=len(self.split.train),
            num_validation_cases=len(self.split.val),
            training_cases=self.split.train,
            validation=validation,
            warnings=warnings,
            finished=num_steps is not None,
            num_steps=num_steps or 0,
            sha256={},
            provenance=make_provenance(dataset.name, self.settings),
        )
        with last_one_named(self.folder / CHECKPOINT):
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
        return [record for record in read_log(self.folder / LOG) if record.pop("kind") == "validation"]
