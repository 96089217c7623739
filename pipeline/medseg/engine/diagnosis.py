"""The diagnosis, fitted once more when the network is finished.

While both answers are learnt together, the classification head follows features that move, under outlines that are
partly the reference's. At the end the features stand still: they are gathered from several views of every training
case, under the network's own outlines, and each head is fitted to them as a whole, as strictly as cross-validation
over patients asks for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from medseg.core.plan import IGNORE_INDEX, MISSING_CLASS
from medseg.data.crop import crop_case
from medseg.data.patches import class_view, tile_starts
from medseg.engine.devices import autocast
from medseg.engine.head_fits import Task, fit_layer, fit_number
from medseg.engine.stop import heed, unless
from medseg.ops.augment import Augmentation, augment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from medseg.core.plan import Plan
    from medseg.data.store import LoadedCase
    from medseg.nn.network import Network, Output

_COST = 0.5  # of looking at a case, in validations of one
_COST_OF_TILES = 1.0  # the same where it is looked at tile by tile
_MOST_VIEWS = 3
_MOST_ROWS = 4000


def refit_cost(plan: Plan, num_cases: int) -> float:
    """Of `refit_heads`, in validations of a case."""
    if plan.classification is None:
        return 0.0
    return (_COST_OF_TILES if plan.classification.gathers else _COST) * num_cases


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
        stop_asked: Asked before every view or tile of a case and before every fit; as often in every process.

    Raises:
        Stopped: When it says so; nothing was changed then.
    """
    known = [case for case in cases if case.entry.teaches_case]
    if network.head is None or plan.classification is None or not known:
        return
    network.eval()
    most = 1 if plan.classification.gathers else _MOST_VIEWS
    num_views = 1 + min(most, max(1, _MOST_ROWS // len(known)))
    look = _Look(network, plan, device, dtype, num_views, stop_asked)
    rows = []
    for number, case in enumerate(known):
        described = look.described(case, np.random.default_rng((seed, number)))
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


@dataclass(frozen=True, eq=False)
class _Look:
    """How a case is looked at for the last fit: as it is, and varied as in training.

    The network has seen these very cases: varied, they are more like new ones.
    """

    network: Network
    plan: Plan
    device: torch.device
    dtype: torch.dtype | None
    num_views: int
    stop_asked: Callable[[], bool] = lambda: False

    def described(self, case: LoadedCase, random: np.random.Generator) -> Tensor:
        """(views, width) features, of the case as it is first.

        Raises:
            Stopped: When `stop_asked`, which is asked before every view or tile, says so.
        """
        case = replace(case, labels=torch.zeros(case.entry.shape, dtype=torch.uint8))  # what is beyond it is ignored
        clinical = case.clinical.to(self.device).expand(self.num_views, -1)
        if self.plan.classification is not None and self.plan.classification.gathers:
            with torch.inference_mode(), autocast(self.device, self.dtype):
                return self.network.describe(self._tiles(case, random), None, clinical)
        heed(self.stop_asked)
        views, inside = self._view(case, random)
        with torch.inference_mode(), autocast(self.device, self.dtype):
            which = torch.arange(self.num_views)
            output: Output = self.network(views, views=which, clinical=clinical, inside=inside)
        if output.described is None:
            message = "a network without a classification head describes nothing"
            raise ValueError(message)
        return output.described

    def _view(self, case: LoadedCase, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(views, C, *patch), and which voxels lie inside the case: no window answers beyond it at inference."""
        plan, generators = self.plan, self._generators(random)
        drawn = [class_view(case, plan), *(class_view(case, plan, jitter=random) for _ in generators)]
        return self._varied(case, drawn, generators)

    def _tiles(self, case: LoadedCase, random: np.random.Generator) -> Iterator[Tensor]:
        for start in unless(self.stop_asked, tile_starts(case.entry.shape, self.plan.patch_size)):
            drawn = [crop_case(case, start, self.plan.patch_size)] * self.num_views
            with torch.autocast(self.device.type, enabled=False):  # varied in full precision, as in training
                views, _ = self._varied(case, drawn, self._generators(random))
            yield views

    def _generators(self, random: np.random.Generator) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(int(random.integers(2**62))) for _ in range(self.num_views - 1)]

    def _varied(
        self, case: LoadedCase, drawn: Sequence[tuple[Tensor, Tensor]], generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """The first as it is, the others varied."""
        image, labels = (torch.stack(list(part)).to(self.device) for part in zip(*drawn, strict=True))
        known = torch.ones((len(generators), max(self.plan.num_outputs, 1)), dtype=torch.bool, device=self.device)
        sized = torch.full((len(generators),), bool(case.entry.values))
        how = Augmentation.from_plan(self.plan)
        varied, moved, _ = augment(image[1:], labels[1:], known, how=how, generators=generators, sized=sized)
        views = torch.cat([image[:1], varied]).contiguous(memory_format=torch.channels_last_3d)
        return views, torch.cat([labels[:1], moved]) != IGNORE_INDEX
