"""How good the network is on held-back cases, on the network grid, whole volumes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medseg.core.errors import case_context
from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS
from medseg.engine.backends import torch_segment
from medseg.engine.case_run import CaseRun, windows_per_call
from medseg.engine.devices import autocast
from medseg.engine.distributed import ALONE, Ranks
from medseg.engine.stop import Stopped, heed, unless
from medseg.engine.thrift import Thrift, rungs_of, within_memory
from medseg.nn.ranks import everybodys
from medseg.ops.ordinal import ordinal_summary
from medseg.ops.scores import classification_summary
from medseg.ops.sliding import WindowGrid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from medseg.core.geometry import Shape
    from medseg.core.plan import Plan
    from medseg.data.store import LoadedCase
    from medseg.engine.case_run import Classifier
    from medseg.engine.segment import Segment
    from medseg.nn.network import Network


_OVERLAP = 0.25

CaseAnswer = tuple[Tensor | None, dict[str, dict[str, float]], dict[str, float]]


def validate(
    network: Network,
    cases: Sequence[LoadedCase],
    plan: Plan,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    stop_asked: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Score whole cases; of several processes each takes some, and all get the scores.

    Args:
        network: To be scored.
        cases: With references or classes.
        plan: The network's.
        device: Where it lies.
        dtype: Reduced precision, or None for fp32.
        stop_asked: Asked before every case and every few windows, and true from then on; of several processes those
            that are not asked end their case.
        ranks: This process among those that validate.

    Raises:
        Stopped: When it says so.
        ResourceError: E-MEMORY, naming the case that not even the CPU's memory holds.

    Returns:
        `dice` (mean over labels of the mean over cases in which the label was annotated), `dice/<label>`, and for each
        head `<head>/accuracy`, `<head>/balanced_accuracy`, `<head>/auroc`; for an ordered one `<head>/mae_steps` and
        `<head>/kappa`; `<head>/collapsed` when nearly all answers are one class although the cases are not; for each
        target `<name>/mae` and `<name>/rmse` in its unit. Empty without cases. A label missing in reference and
        prediction scores 1, in one of them 0.
    """
    network.eval()
    segment = torch_segment(network, dtype)
    segments = [_interruptible(segment, stop_asked)]
    rows: list[_Row] = []
    given_up = False

    def answered(case: LoadedCase, thrift: Thrift) -> CaseAnswer:
        where = torch.device("cpu") if thrift is Thrift.CPU else device
        with torch.inference_mode(mode=False):  # weights that were moved inside it could no longer be averaged into
            network.to(where)
        image = case.image[:].to(where).float()
        return infer_case(
            [_Heeding(network, stop_asked)],
            image,
            plan,
            segments=segments,
            overlap=_OVERLAP,
            thrift=thrift,
            clinical=case.clinical,
        )

    try:
        with torch.inference_mode(), autocast(device, dtype):
            for number in range(ranks.rank, len(cases) + ranks.rank, ranks.size):
                if ranks.any(stop_asked()):
                    raise Stopped
                if number >= len(cases):
                    continue
                case = cases[number]
                try:
                    with case_context(case.entry.id):
                        answer, _ = within_memory(partial(answered, case), rungs_of(device), shape=case.entry.shape)
                except Stopped:
                    given_up = True  # told to the others where they wait
                    continue
                rows.append(_row(number, case, plan, answer))
        if ranks.any(given_up):
            raise Stopped
    finally:
        network.to(device)
    return _scores(sorted(everybodys(rows), key=lambda row: row.number), plan)


def infer_case(
    networks: Sequence[Classifier],
    image: Tensor,
    plan: Plan,
    *,
    segments: Sequence[Segment],
    overlap: float,
    thrift: Thrift = Thrift.NONE,
    clinical: Tensor | None = None,
) -> CaseAnswer:
    """All answers for one case on the network grid; call inside inference mode and autocast.

    Args:
        networks: In evaluation mode.
        image: (C, I, J, K) on the networks' device.
        plan: The model's.
        segments: The segmentation half of each network, from `Backends` or `torch_segment`.
        overlap: Of neighbouring windows.
        thrift: How much speed is given up for memory.
        clinical: (width,) the plan's clinical columns of the case.

    Returns:
        Logits (K, I, J, K), None without labels, class probabilities by head, and values by target.
    """
    windows = WindowGrid.over(image.shape[1:], plan.patch_size, overlap)
    run = CaseRun(networks, image, plan, segments=segments, grid=windows, thrift=thrift, clinical=clinical)
    return _whole(run.slabs(), image) if plan.num_outputs else None, run.classes(), run.values()


def _whole(slabs: Iterator[Tensor], image: Tensor) -> Tensor:
    """All of an image together, each slab let go as soon as it is in its place."""
    row, whole = 0, torch.empty(0)
    for slab in slabs:
        whole = whole if row else slab.new_empty((len(slab), *image.shape[1:]))
        whole[:, row : row + slab.shape[1]] = slab
        row += slab.shape[1]
    return whole


def windows_at_once(shape: Shape, plan: Plan, device: torch.device) -> int:
    """Of a case, how many windows the network answers together in `validate`; none where it segments nothing."""
    if not plan.num_outputs:
        return 0
    _, across, along = WindowGrid.over(shape, plan.patch_size, _OVERLAP).starts
    return min(len(across) * len(along), windows_per_call(device, plan.patch_size))


@dataclass(frozen=True)
class _Row:
    """What one case scores: Dice by label, by head the probabilities and the class, by target answer and reference."""

    number: int
    dice: dict[str, float]
    answers: dict[str, tuple[list[float], int]]
    values: dict[str, tuple[float, float]]


def _row(number: int, case: LoadedCase, plan: Plan, answer: CaseAnswer) -> _Row:
    logits, classes, values = answer
    dice = {}
    if logits is not None and case.labels.numel():
        dice = _dice(logits.argmax(0).cpu().numpy(), case, plan)
    answers = {
        head: (list(probabilities.values()), case.entry.classes[head])
        for head, probabilities in classes.items()
        if case.entry.classes.get(head, MISSING_CLASS) != MISSING_CLASS
    }
    truth = case.entry.values
    said = {name: (value, truth[name]) for name, value in values.items() if name in truth}
    return _Row(number, dice, answers, said)


def _scores(rows: Sequence[_Row], plan: Plan) -> dict[str, float]:
    dice: dict[str, list[float]] = {name: [] for name in plan.label_names}
    answers: dict[str, list[tuple[list[float], int]]] = {}
    for row in rows:
        for name, value in row.dice.items():
            dice[name].append(value)
        for head, answer in row.answers.items():
            answers.setdefault(head, []).append(answer)
    scored = {name: float(np.mean(values)) for name, values in dice.items() if values}
    result = {"dice": float(np.mean(list(scored.values())))} if scored else {}
    result |= {f"dice/{name}": value for name, value in scored.items()}
    for head, given in answers.items():
        result |= _class_scores(head, given, plan)
    for name in dict.fromkeys(name for row in rows for name in row.values):
        errors = np.array([said - truth for said, truth in (row.values[name] for row in rows if name in row.values)])
        result |= {f"{name}/mae": float(np.abs(errors).mean()), f"{name}/rmse": float(np.sqrt((errors**2).mean()))}
    return result


@dataclass(frozen=True)
class _Heeding:
    """A network that looks at the views of a case until somebody asks to stop."""

    network: Network
    stop_asked: Callable[[], bool]

    def classify(
        self, views: Iterable[Tensor], probabilities: Tensor | None, clinical: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.network.classify(unless(self.stop_asked, views), probabilities, clinical)


def _interruptible(segment: Segment, stop_asked: Callable[[], bool]) -> Segment:
    def asking(windows: Tensor) -> Tensor:
        heed(stop_asked)
        return segment(windows)

    return asking


def _dice(answer: np.ndarray, case: LoadedCase, plan: Plan) -> dict[str, float]:
    reference = case.labels[:].cpu().numpy()
    valid = reference != IGNORE_INDEX
    scores = {}
    for index, name in enumerate(plan.label_names, start=1):
        if case.entry.known[index]:
            found, truth = (answer == index) & valid, reference == index
            size = int(found.sum()) + int(truth.sum())
            scores[name] = 2 * float((found & truth).sum()) / size if size else 1.0
    return scores


def _class_scores(head: str, rows: list[tuple[list[float], int]], plan: Plan) -> dict[str, float]:
    if plan.classification is None:
        return {}
    names = plan.classification.heads[head]
    probabilities, reference = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    summary = classification_summary(head, names, probabilities, reference)
    scores = {f"{head}/accuracy": summary.accuracy, f"{head}/balanced_accuracy": summary.balanced_accuracy}
    if summary.auroc is not None:
        scores[f"{head}/auroc"] = summary.auroc
    if head in plan.classification.ordered:
        ordinal = ordinal_summary(names, probabilities, reference)
        scores[f"{head}/mae_steps"] = ordinal.mae_steps
        if ordinal.kappa is not None:
            scores[f"{head}/kappa"] = ordinal.kappa
    return {**scores, f"{head}/collapsed": 1.0} if summary.collapsed else scores
