"""How each head is fitted to features that stand still: as strictly as cross-validation over patients asks for."""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.engine.stop import heed, unless
from medseg.nn.diagnosis import OrdinalLayer
from medseg.ops.logistic import Problem, logistic_path
from medseg.ops.ridge import errors_left_out, ridge_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from medseg.nn.diagnosis import Layer

logger = logging.getLogger(__name__)

_NUM_FOLDS = 5
_FEWEST_PER_CLASS = 5
_FEWEST_VALUES = 10
_PENALTIES = tuple(10.0**exponent for exponent in np.arange(0.5, -4.1, -0.5))
_MISTAKEN = (0.0, 0.1)


@dataclass(frozen=True, eq=False)
class Task:
    """What one head is fitted to.

    Attributes:
        features: (cases, views, width) standardised features.
        targets: (cases,) class index, or standardised value.
        patients: (cases,) who is left out together.
        blocks: Widths of the groups of features; each group as a whole is trusted alike, however wide it is.
    """

    features: Tensor
    targets: Tensor
    patients: NDArray[np.str_]
    blocks: tuple[int, ...]

    @property
    def trust(self) -> Tensor:
        """(width,) how dear a feature is: as much as its group is wide."""
        return torch.cat([torch.full((size,), float(size)) for size in self.blocks]).double()


def fit_number(task: Task, like: Layer, *, seed: int, stop_asked: Callable[[], bool] = lambda: False) -> Layer | None:
    """A linear layer to one value: ridge regression with the penalty that foretells patients left out best.

    Raises:
        Stopped: When `stop_asked`, which is asked before every fit, says so.

    Returns:
        None with too few cases or patients, or when no penalty does better than answering with the mean by more than
        the standard error of the gain over the patients: among so many penalties one always seems to.
    """
    patients = len(np.unique(task.patients))
    if len(task.targets) < _FEWEST_VALUES or patients < _NUM_FOLDS or bool((task.targets == task.targets[0]).all()):
        return None
    features, wanted, trust = (part.numpy() for part in (task.features, task.targets, task.trust))
    folds = [inside.numpy() for inside in _folds(task, seed=seed)]
    errors, constant = errors_left_out(features, wanted, _PENALTIES, trust=trust, folds=unless(stop_asked, folds))
    heed(stop_asked)
    best = int(errors.mean(1).argmin())
    _, owner = np.unique(task.patients, return_inverse=True)
    gains = np.bincount(owner, weights=constant - errors[best])
    logger.info("squared error of patients left out %.3f, of the mean %.3f", errors[best].mean(), constant.mean())
    if gains.mean() <= gains.std(ddof=1) / math.sqrt(patients):
        return None
    ((weights, bias),) = ridge_path(features, wanted, _PENALTIES[best : best + 1], trust=trust)
    return _layer(like, weights[None], np.array([bias]))


def fit_layer(task: Task, like: Layer, *, seed: int, stop_asked: Callable[[], bool] = lambda: False) -> Layer | None:
    """A layer like the given one, with the penalty and share of mistaken classes that foretell patients left out best.

    Raises:
        Stopped: When `stop_asked`, which is asked before every fit, says so.

    Returns:
        None with too few cases, or when nothing does better than answering with the classes' shares.
    """
    counts = torch.bincount(task.targets)
    occurring = counts[counts > 0]
    if len(occurring) < 2 or int(occurring.min()) < _FEWEST_PER_CLASS:
        return None
    folds = _folds(task, seed=seed)
    losses = np.array(
        [_losses_left_out(task, like, folds, mistaken=share, stop_asked=stop_asked) for share in _MISTAKEN]
    )
    # Everything is tried on all cases too, whatever is best, which hangs on rounding: several processes must ask
    # equally often whether to stop.
    layers = [fit_path(task, like, _PENALTIES, mistaken=share, stop_asked=stop_asked) for share in _MISTAKEN]
    (share, penalty), constant = np.unravel_index(losses.argmin(), losses.shape), math.log(len(occurring))
    logger.info(
        "loss of patients left out %.3f, of a constant %.3f, as if %g of the classes were mistaken",
        losses.min(),
        constant,
        _MISTAKEN[share],
    )
    return layers[share][penalty] if losses.min() < constant else None


def _folds(task: Task, *, seed: int) -> list[Tensor]:
    """(cases,) bool each: who is learnt from; patients are dealt out like cards, in the order of class or value."""
    random = np.random.default_rng(seed)
    names = random.permutation(np.unique(task.patients))
    first = {name: float(task.targets[int(np.flatnonzero(task.patients == name)[0])]) for name in names}
    dealt = {name: number % _NUM_FOLDS for number, name in enumerate(sorted(names, key=first.__getitem__))}
    fold = torch.tensor([dealt[name] for name in task.patients])
    return [fold != number for number in range(_NUM_FOLDS) if bool((fold == number).any())]


def _losses_left_out(
    task: Task, like: Layer, folds: Sequence[Tensor], *, mistaken: float, stop_asked: Callable[[], bool]
) -> NDArray[np.float64]:
    """(penalties,) mean loss of the cases left out, each class counting alike, over the folds."""
    losses = []
    for inside in folds:
        learnt = Task(task.features[inside], task.targets[inside], task.patients[inside.numpy()], task.blocks)
        left_out, targets = task.features[~inside], task.targets[~inside]
        weights = _balance(targets)
        path = fit_path(learnt, like, _PENALTIES, mistaken=mistaken, stop_asked=stop_asked)
        rows = (_row_losses(layer, left_out, targets, mistaken).mean(1) for layer in path)
        losses.append([float((weights * row).sum()) for row in rows])
    return np.asarray(np.mean(losses, axis=0))


def fit_path(
    task: Task,
    like: Layer,
    penalties: Sequence[float],
    *,
    mistaken: float = 0.0,
    stop_asked: Callable[[], bool] = lambda: False,
) -> list[Layer]:
    """One layer for each penalty, strictest first, each starting where the last one ended.

    Args:
        task: What to fit to.
        like: Gives the kind of layer and its size.
        penalties: Of squared weights, falling.
        mistaken: Share of the given classes that are taken to be wrong.
        stop_asked: Asked before each fit.

    Raises:
        Stopped: When `stop_asked` says so.
    """
    ordered = isinstance(like, OrdinalLayer)
    problem = Problem(
        task.features.numpy(),
        task.targets.numpy(),
        shares=_balance(task.targets).numpy(),
        trust=task.trust.numpy(),
        num_classes=len(like.bias) + ordered,
        ordered=ordered,
        mistaken=mistaken,
    )
    path = logistic_path(problem, unless(stop_asked, penalties))
    return [_layer(like, *found) for found in path]


def _layer(like: Layer, weights: NDArray[np.float64], constants: NDArray[np.float64]) -> Layer:
    """A layer of the same kind with these numbers."""
    layer = copy.deepcopy(like).double().cpu().requires_grad_(requires_grad=False)
    layer.weight.copy_(torch.from_numpy(weights))
    layer.bias.copy_(torch.from_numpy(constants))
    return layer


def _row_losses(layer: Layer, features: Tensor, targets: Tensor, mistaken: float) -> Tensor:
    """(cases, views): minus the logarithm of how likely the given class is."""
    logits = layer(features)
    repeated = targets[:, None].expand(logits.shape[:2])
    surprise = functional.cross_entropy(logits.flatten(0, 1), repeated.flatten(), reduction="none").view_as(repeated)
    if not mistaken:
        return surprise
    true = torch.exp(-surprise)
    return -torch.log((1 - mistaken) * true + mistaken * (1 - true) / (logits.shape[-1] - 1))


def _balance(targets: Tensor) -> Tensor:
    """(cases,) weights that sum to 1, the same sum for each class that occurs."""
    counts = torch.bincount(targets)
    return 1.0 / (counts[targets].double() * int((counts > 0).sum()))
