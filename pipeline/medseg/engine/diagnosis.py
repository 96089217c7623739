"""The diagnosis, fitted once more when the network is finished.

While both answers are learnt together, the classification head follows features that move, under outlines that are
partly the reference's. At the end the features stand still: they are gathered from several views of every training
case, under the network's own outlines, and each head is fitted to them as a whole, as strictly as cross-validation
over patients asks for.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS
from medseg.data.patches import class_view
from medseg.engine.devices import autocast
from medseg.engine.stop import Stopped
from medseg.nn.diagnosis import OrdinalLayer
from medseg.ops.augment import Augmentation, augment
from medseg.ops.ridge import errors_left_out, ridge_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from medseg.core.plan import Plan
    from medseg.data.store import LoadedCase
    from medseg.nn.diagnosis import Layer
    from medseg.nn.network import Network, Output

logger = logging.getLogger(__name__)

_COST = 0.5  # of looking at a case, in validations of one
_NUM_FOLDS = 5
_FEWEST_PER_CLASS = 5
_FEWEST_VALUES = 10
_PENALTIES = tuple(10.0**exponent for exponent in np.arange(0.5, -4.1, -0.5))
_MOST_VIEWS = 3
_MOST_ROWS = 4000
_LEAST_DEVIATION = 0.05


def refit_cost(plan: Plan, num_cases: int) -> float:
    """Of `refit_heads`, in validations of a case."""
    return _COST * num_cases if plan.classification else 0.0


def refit_heads(
    network: Network,
    cases: Sequence[LoadedCase],
    plan: Plan,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    seed: int,
    stop_asked: Callable[[], bool] = lambda: False,
) -> None:
    """Fit every head anew to the features of the training cases; the encoder and decoder are left alone.

    A head stays as it was trained where fewer than five cases of some class (ten of a value) are known, or where its
    features foretell the answer of patients left out no better than a constant.

    Args:
        network: Finished; its heads are changed in place.
        cases: To learn from.
        plan: Of the network.
        device: Where it lies.
        dtype: Its precision.
        seed: Of the views and of the folds.
        stop_asked: Asked before every case and every fit of a cross-validation; as often in every process.

    Raises:
        Stopped: When it says so; nothing was changed then.
    """
    known = [case for case in cases if case.entry.teaches_case]
    if network.head is None or plan.classification is None or not known:
        return
    network.eval()
    gather = partial(_gather, network, plan, device=device, dtype=dtype)
    num_views = 1 + min(_MOST_VIEWS, max(1, _MOST_ROWS // len(known)))
    rows = []
    for number, case in enumerate(known):
        if stop_asked():
            raise Stopped
        described = gather(case, random=np.random.default_rng((seed, number)), num_views=num_views)
        rows.append(network.head.standard(described).cpu().double())
    features = torch.stack(rows)
    patients = np.array([case.entry.patient for case in known])
    layers, fitted = network.head.layers(), {}
    for name, trained in layers.items():
        target = plan.classification.targets.get(name)
        if target is None:
            targets = torch.tensor([case.entry.classes.get(name, MISSING_CLASS) for case in known])
            is_known = targets != MISSING_CLASS
        else:
            values = [target.standardised(case.entry.values.get(name, math.nan)) for case in known]
            targets = torch.tensor(values, dtype=torch.float64)
            is_known = torch.isfinite(targets)
        task = Task(features[is_known], targets[is_known], patients[is_known.numpy()], network.head.blocks)
        fit = fit_layer if target is None else fit_number
        fitted[name] = fit(task, trained, seed=seed, stop_asked=stop_asked)
    for name, layer in fitted.items():
        if layer is not None:
            layers[name].load_state_dict(layer.state_dict())


def _gather(
    network: Network,
    plan: Plan,
    case: LoadedCase,
    *,
    random: np.random.Generator,
    num_views: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Tensor:
    """(views, width) features: of the view as it is, and of varied ones as in training.

    The network has seen these very cases: varied, they are more like new ones.
    """
    generators = [torch.Generator().manual_seed(int(random.integers(2**62))) for _ in range(num_views - 1)]
    case = replace(case, labels=torch.zeros(case.entry.shape, dtype=torch.uint8))  # what is beyond it is ignored
    drawn = [class_view(case, plan), *(class_view(case, plan, jitter=random) for _ in generators)]
    image, labels = (torch.stack(list(part)).to(device) for part in zip(*drawn, strict=True))
    known = torch.ones((len(generators), max(plan.num_outputs, 1)), dtype=torch.bool, device=device)
    sized = torch.full((len(generators),), bool(case.entry.values))
    how = Augmentation.from_plan(plan)
    varied, moved, _ = augment(image[1:], labels[1:], known, how=how, generators=generators, sized=sized)
    inside = torch.cat([labels[:1], moved]) != IGNORE_INDEX  # as at inference, where no window answers beyond the case
    views = torch.cat([image[:1], varied]).contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode(), autocast(device, dtype):
        clinical = case.clinical.to(device).expand(num_views, -1)
        output: Output = network(views, views=torch.arange(num_views), clinical=clinical, inside=inside)
    if output.described is None:
        message = "a network without a classification head describes nothing"
        raise ValueError(message)
    return output.described


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
        Stopped: When `stop_asked`, which is asked once, says so.

    Returns:
        None with too few cases or patients, or when no penalty does better than answering with the mean by more than
        the standard error of the gain over the patients: among so many penalties one always seems to.
    """
    if stop_asked():
        raise Stopped
    patients = len(np.unique(task.patients))
    if len(task.targets) < _FEWEST_VALUES or patients < _NUM_FOLDS or bool((task.targets == task.targets[0]).all()):
        return None
    features, wanted, trust = (part.numpy() for part in (task.features, task.targets, task.trust))
    folds = [inside.numpy() for inside in _folds(task, seed=seed)]
    errors, constant = errors_left_out(features, wanted, _PENALTIES, trust=trust, folds=folds)
    best = int(errors.mean(1).argmin())
    _, owner = np.unique(task.patients, return_inverse=True)
    gains = np.bincount(owner, weights=constant - errors[best])
    logger.info("squared error of patients left out %.3f, of the mean %.3f", errors[best].mean(), constant.mean())
    if gains.mean() <= gains.std(ddof=1) / math.sqrt(patients):
        return None
    ((weights, bias),) = ridge_path(features, wanted, _PENALTIES[best : best + 1], trust=trust)
    layer = copy.deepcopy(like).double().cpu().requires_grad_(requires_grad=False)
    layer.weight.copy_(torch.from_numpy(weights)[None])
    layer.bias.fill_(bias)
    return layer


def fit_layer(task: Task, like: Layer, *, seed: int, stop_asked: Callable[[], bool] = lambda: False) -> Layer | None:
    """A layer like the given one, with the penalty that foretells patients left out best.

    Raises:
        Stopped: When `stop_asked`, which is asked before every fit without some patients, says so. (Not before the last
            ones, whose number hangs on rounding: several processes must ask equally often.)

    Returns:
        None with too few cases, or when no penalty does better than answering with the classes' shares.
    """
    counts = torch.bincount(task.targets)
    occurring = counts[counts > 0]
    if len(occurring) < 2 or int(occurring.min()) < _FEWEST_PER_CLASS:
        return None
    folds = _folds(task, seed=seed)
    losses = np.mean([_losses_left_out(task, like, inside, stop_asked) for inside in folds], axis=0)
    best, constant = int(losses.argmin()), math.log(len(occurring))
    logger.info("loss of patients left out %.3f, of a constant %.3f", losses[best], constant)
    if losses[best] >= constant:
        return None
    return fit_path(task, like, _PENALTIES[: best + 1])[-1]


def _folds(task: Task, *, seed: int) -> list[Tensor]:
    """(cases,) bool each: who is learnt from; patients are dealt out like cards, in the order of class or value."""
    random = np.random.default_rng(seed)
    names = random.permutation(np.unique(task.patients))
    first = {name: float(task.targets[int(np.flatnonzero(task.patients == name)[0])]) for name in names}
    dealt = {name: number % _NUM_FOLDS for number, name in enumerate(sorted(names, key=first.__getitem__))}
    fold = torch.tensor([dealt[name] for name in task.patients])
    return [fold != number for number in range(_NUM_FOLDS) if bool((fold == number).any())]


def _losses_left_out(task: Task, like: Layer, inside: Tensor, stop_asked: Callable[[], bool]) -> list[float]:
    """Mean loss of the cases left out, each class counting alike, by penalty."""
    learnt = Task(task.features[inside], task.targets[inside], task.patients[inside.numpy()], task.blocks)
    left_out, targets = task.features[~inside], task.targets[~inside]
    weights = _balance(targets)
    return [
        float((weights * _row_losses(layer, left_out, targets).mean(1)).sum())
        for layer in fit_path(learnt, like, _PENALTIES, stop_asked=stop_asked)
    ]


def fit_path(
    task: Task, like: Layer, penalties: Sequence[float], *, stop_asked: Callable[[], bool] = lambda: False
) -> list[Layer]:
    """One layer for each penalty, strictest first, each starting where the last one ended.

    Raises:
        Stopped: When `stop_asked`, which is asked before each, says so.
    """
    flat = task.features.flatten(0, 1)
    shift, scale = flat.mean(0), flat.std(0).clamp(min=_LEAST_DEVIATION)
    features = (task.features - shift) / scale
    weights = _balance(task.targets)
    layer = copy.deepcopy(like).double().cpu().requires_grad_()  # the averaged weights are frozen
    if isinstance(layer, OrdinalLayer):
        layer.reset_parameters()
    else:
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(layer.weight)

    def loss(penalty: float) -> Tensor:
        layer.zero_grad()
        data = (weights * _row_losses(layer, features, task.targets).mean(1)).sum()
        total = data + penalty * (task.trust * layer.weight.square()).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    layers = []
    for penalty in penalties:
        if stop_asked():
            raise Stopped
        solver = torch.optim.LBFGS(layer.parameters(), max_iter=50, tolerance_grad=1e-6, line_search_fn="strong_wolfe")
        solver.step(partial(loss, penalty))  # type: ignore[no-untyped-call]
        back = copy.deepcopy(layer).requires_grad_(requires_grad=False)
        back.weight.div_(scale)
        back.bias.sub_(back.weight @ shift)
        layers.append(back)
    return layers


def _row_losses(layer: Layer, features: Tensor, targets: Tensor) -> Tensor:
    """(cases, views)."""
    logits = layer(features)
    repeated = targets[:, None].expand(logits.shape[:2])
    return functional.cross_entropy(logits.flatten(0, 1), repeated.flatten(), reduction="none").view_as(repeated)


def _balance(targets: Tensor) -> Tensor:
    """(cases,) weights that sum to 1, the same sum for each class that occurs."""
    counts = torch.bincount(targets)
    return 1.0 / (counts[targets].double() * int((counts > 0).sum()))
