from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from medseg.core.plan import MISSING_CLASS, Plan
from medseg.core.values import Target
from medseg.data.store import LoadedCase, Store, StoredCase, open_store
from medseg.engine import case_run, head_fits
from medseg.engine.backends import torch_segment
from medseg.engine.case_run import CaseRun
from medseg.engine.diagnosis import _Look, refit_heads
from medseg.engine.head_fits import _MISTAKEN, Task, _folds, _row_losses, fit_layer, fit_number, fit_path
from medseg.engine.stop import Stopped
from medseg.engine.validate import infer_case
from medseg.nn.build import build_network
from medseg.nn.diagnosis import OrdinalLayer
from medseg.ops.ordinal import weighted_kappa
from medseg.ops.sliding import WindowGrid
from medseg.workflows.workspace import Workspace


@pytest.fixture
def few_penalties(monkeypatch):
    """Where it does not matter which of many is chosen."""
    monkeypatch.setattr(head_fits, "_PENALTIES", head_fits._PENALTIES[::4])


def _task(*, num_cases=40, blocks=(3, 2), signal=2.0, views=1, seed=0, per_patient=1) -> Task:
    """Two classes, told by the first feature alone."""
    random = np.random.default_rng(seed)
    targets = np.arange(num_cases) // per_patient % 2
    features = random.normal(size=(num_cases, views, sum(blocks)))
    features[:, :, 0] += signal * targets[:, None]
    patients = np.array([f"p{number // per_patient}" for number in range(num_cases)])
    return Task(torch.from_numpy(features), torch.from_numpy(targets), patients, blocks)


def test_a_layer_equals_the_logistic_regression_of_another_library():
    task = _task(num_cases=30, blocks=(3,))
    task.features[:, 0, 1] = 5 * task.features[:, 0, 1] + 3
    targets = torch.cat([task.targets[:16], torch.zeros(10, dtype=torch.int64)])
    task = Task(task.features[:26], targets, task.patients[:26], (3,))
    (layer,) = fit_path(task, nn.Linear(3, 2), [0.02])
    flat = task.features[:, 0].numpy()
    standard = (flat - flat.mean(0)) / flat.std(0, ddof=1)
    peer = LogisticRegression(C=1 / (0.02 * 3 * 26), class_weight="balanced", tol=1e-10, max_iter=1000)
    peer.fit(standard, task.targets.numpy())
    ours = layer(task.features[:, 0]).softmax(1)[:, 1].detach().numpy()
    assert ours == pytest.approx(peer.predict_proba(standard)[:, 1], abs=1e-4)


@pytest.mark.parametrize(("num_classes", "mistaken"), [(2, 0.1), (3, 0.3), (3, 0.0)])
def test_how_likely_a_given_class_is_when_some_are_mistaken(num_classes, mistaken):
    """By the rule of total probability over the true class."""
    random = np.random.default_rng(5)
    layer = nn.Linear(4, num_classes).double()
    features, targets = torch.from_numpy(random.normal(size=(6, 2, 4))), torch.arange(6) % num_classes
    true = layer(features).softmax(2).detach().numpy()
    turned = np.full((num_classes, num_classes), mistaken / (num_classes - 1))
    np.fill_diagonal(turned, 1 - mistaken)
    given = np.take_along_axis(true @ turned, targets.numpy()[:, None, None], axis=2)[..., 0]
    assert _row_losses(layer, features, targets, mistaken).detach().numpy() == pytest.approx(-np.log(given))


def _contrast(num_cases: int, seed: int) -> Task:
    """The class shows in the difference of two features that vary together."""
    random, targets = np.random.default_rng(seed), np.arange(num_cases) % 2
    features = np.repeat(random.normal(size=(num_cases, 1)), 2, axis=1) + 0.15 * random.normal(size=(num_cases, 2))
    features[:, 0] += targets
    patients = np.array([f"p{number}" for number in range(num_cases)])
    return Task(torch.from_numpy(features[:, None]), torch.from_numpy(targets), patients, (2,))


@pytest.mark.usefixtures("few_penalties")
def test_mistaken_classes_spoil_a_fit_less_when_it_allows_for_them_and_right_ones_are_believed(monkeypatch):
    """Of one case in ten the class given is the other; what is answered is how likely the true one is."""
    is_wrong = torch.isin(torch.arange(60), torch.tensor([3, 14, 25, 36, 47, 58]))
    errors = np.zeros((4, 2, 2))
    for seed, (number, shares) in product(range(4), enumerate([_MISTAKEN, (0.0,)])):
        monkeypatch.setattr(head_fits, "_MISTAKEN", shares)
        right, new = _contrast(60, seed), _contrast(400, 100 + seed)
        wrong = replace(right, targets=torch.where(is_wrong, 1 - right.targets, right.targets))
        for row, task in enumerate((right, wrong)):
            fitted = fit_layer(task, nn.Linear(2, 2), seed=seed)
            assert fitted is not None
            answer = fitted(new.features[:, 0]).softmax(1)[:, 1]
            errors[seed, row, number] = float((answer - new.targets).abs().mean())
    (right_allowed, right_believed), (allowed, believed) = errors.mean(0)
    assert right_allowed == pytest.approx(right_believed, abs=0.02)
    assert allowed < 0.75 * believed


def test_a_wide_group_of_features_does_not_drown_a_narrow_one():
    task = _task(blocks=(1, 60), signal=1.5)
    (layer,) = fit_path(task, nn.Linear(61, 2), [0.01])
    (alike,) = fit_path(Task(task.features, task.targets, task.patients, (61,)), nn.Linear(61, 2), [0.01 / 61])
    share = [float(one.weight[1, 0].abs() / one.weight[1].norm()) for one in (layer, alike)]
    assert share[0] > 0.95 > share[1]


def test_the_penalty_is_chosen_for_patients_left_out():
    fitted = fit_layer(_task(num_cases=60, views=3, blocks=(2, 30)), nn.Linear(32, 2), seed=0)
    new = _task(num_cases=400, blocks=(2, 30), seed=1)
    assert fitted is not None
    answer = fitted(new.features[:, 0]).softmax(1)[:, 1].detach().numpy()
    assert roc_auc_score(new.targets.numpy(), answer) > 0.88  # the best possible is 0.92
    assert 0.05 < np.abs(answer - 0.5).mean() < 0.45


@pytest.mark.parametrize("seed", range(3))
def test_features_that_foretell_nothing_leave_the_trained_layer_alone(seed):
    """Three cases of each patient look alike: only leaving whole patients out shows that nothing was learnt."""
    task = _task(num_cases=48, blocks=(40,), signal=0.0, seed=seed, per_patient=3)
    features = task.features[::3].repeat_interleave(3, dim=0)
    assert fit_layer(Task(features, task.targets, task.patients, (40,)), nn.Linear(40, 2), seed=0) is None


def test_folds_keep_patients_together_and_mix_classes():
    task = _task(num_cases=60, per_patient=3)
    left_out = torch.stack([~inside for inside in _folds(task, seed=4)])
    assert (left_out.sum(0) == 1).all()
    for fold in left_out:
        inside = set(task.patients[~fold.numpy()])
        assert not inside & set(task.patients[fold.numpy()])
        assert 0.3 <= float(task.targets[fold].double().mean()) <= 0.7


@pytest.mark.parametrize("targets", [[0] * 20, [0] * 16 + [1] * 4])
def test_too_few_cases_of_a_class_leave_the_trained_layer_alone(targets):
    task = _task(num_cases=20, blocks=(2,))
    assert fit_layer(Task(task.features, torch.tensor(targets), task.patients, (2,)), nn.Linear(2, 2), seed=0) is None


def test_a_class_that_never_occurred_is_never_answered():
    task = _task(num_cases=40, blocks=(2,), signal=6.0)
    fitted = fit_layer(Task(task.features, 2 * task.targets, task.patients, (2,)), nn.Linear(2, 3), seed=0)
    assert fitted is not None
    assert set(fitted(task.features[:, 0]).argmax(1).tolist()) == {0, 2}


@pytest.fixture(scope="module")
def cases(workspace: Workspace) -> tuple[Store, list[LoadedCase]]:
    store = open_store(workspace.store)
    one = [store.load(entry.id) for entry in store.index.cases]
    twice = [
        LoadedCase(case.entry.model_copy(update={"patient": f"{case.entry.patient}{copy}"}), *parts)
        for copy in range(2)
        for case in one
        for parts in [(case.image + copy, case.labels, case.foreground)]
    ]
    return store, twice


@pytest.mark.usefixtures("few_penalties")
def test_nothing_but_the_heads_is_refitted_and_alike_each_time(cases):
    store, known = cases
    told = [
        LoadedCase(case.entry, case.image + 3.0 * case.entry.classes["lesion_type"], case.labels, case.foreground)
        for case in known
    ]
    untold = LoadedCase(
        known[0].entry.model_copy(update={"classes": {"lesion_type": MISSING_CLASS}}),
        torch.full_like(known[0].image, torch.nan),
        known[0].labels,
        known[0].foreground,
    )
    states = []
    for shown in (told, [*told, untold]):
        network = build_network(store.plan, seed=1)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        refit_heads(network, shown, store.plan, device=torch.device("cpu"), dtype=None, seed=2)
        states.append(network.state_dict())
    changed = {name for name, value in states[0].items() if not torch.equal(value, before[name])}
    assert changed == {"head.heads.lesion_type.weight", "head.heads.lesion_type.bias"}
    assert all(torch.equal(value, states[0][name]) for name, value in states[1].items())


_FITS = 3 * len(_MISTAKEN)
_ROUNDS = {  # after the cases; of a class each choice in five folds and on all cases, of a number once in each
    "before the first fold": 0,
    "in a fold": 2 * _FITS + 3,
    "in the fits to all cases": 5 * _FITS + 1,
    "before the last of them": 6 * _FITS - 1,
    "before the second head": 6 * _FITS,
    "in the second head's folds": 6 * _FITS + 3,
    "before the last fit": 6 * _FITS + 5,
}


class _StopAt:
    """Asks to stop when it was asked so often; keeps count."""

    def __init__(self, last: int) -> None:
        self.last, self.asked = last, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked > self.last


@pytest.fixture(scope="module")
def two_heads(cases):
    """Cases with a class and a number that their brightness tells; the plan that asks for both."""
    store, known = cases
    finding = store.plan.classification.model_copy(
        update={"targets": {"age": Target(unit="years", n=9, mean=60.0, std=10.0, low=40.0, high=80.0)}}
    )
    told = [
        replace(
            case,
            entry=case.entry.model_copy(update={"values": {"age": 45.0 + number}}),
            image=case.image + 3.0 * case.entry.classes["lesion_type"],
        )
        for number, case in enumerate(known)
    ]
    return store.plan.model_copy(update={"classification": finding}), told


@pytest.mark.usefixtures("few_penalties")
@pytest.mark.parametrize(
    "stop_at",
    [
        "in a case",
        "in a fold",
        "before the last fit",
        "never",
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in _ROUNDS
            if one not in {"in a fold", "before the last fit"}
        ),
    ],
)
def test_a_stop_in_the_last_fit_is_heard_before_the_next_one_and_changes_nothing(two_heads, stop_at):
    """Also of the heads that were fitted before it. Who never asks to stop gets other heads."""
    plan, known = two_heads
    rounds = {name: len(known) + number for name, number in _ROUNDS.items()}
    asking = _StopAt({**rounds, "in a case": 1, "never": 10**6}[stop_at])
    network = build_network(plan, seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    refit = partial(refit_heads, network, known, plan, device=torch.device("cpu"), dtype=None, seed=2)
    if stop_at == "never":
        refit(stop_asked=asking)
        assert asking.asked == len(known) + 6 * _FITS + 6
    else:
        with pytest.raises(Stopped):
            refit(stop_asked=asking)
        assert asking.asked == asking.last + 1
    unchanged = all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert unchanged is (stop_at != "never")


@pytest.mark.parametrize(
    ("fit", "tasks"),
    [
        (fit_layer, [{"signal": signal, "blocks": (20,)} for signal in (0.0, 1.0, 4.0)]),
        (fit_number, [{"signal": signal} for signal in (0.0, 1.0)]),
    ],
)
def test_how_often_a_fit_asks_whether_to_stop_does_not_hang_on_what_it_finds(fit, tasks):
    """Several processes ask together, and rounding may let them find different things."""
    makes, like = {fit_layer: (_task, nn.Linear(20, 2)), fit_number: (_numbers, nn.Linear(20, 1))}[fit]
    asking = [_StopAt(10**6) for _ in tasks]
    found = [fit(makes(**task), like, seed=0, stop_asked=asked) for task, asked in zip(tasks, asking, strict=True)]
    assert {layer is None for layer in found} == {True, False}
    assert len({asked.asked for asked in asking}) == 1


def _far_away(plan, *, num_cases, seed):
    """Cases 40 voxels long: a label at one end, and at the other what tells the class."""
    random = np.random.default_rng(seed)
    made = []
    for number in range(num_cases):
        image = torch.from_numpy(random.normal(size=(1, 40, 8, 8))).float()
        image[:, 30:34, 2:6, 2:6] += 4.0 * (number % 2)
        labels = torch.zeros(40, 8, 8, dtype=torch.uint8)
        labels[2:6, 2:6, 2:6] = 1
        points = torch.cat([torch.ones(64, 1), torch.argwhere(labels > 0)], dim=1).short()
        entry = StoredCase(
            id=f"{seed}-{number}",
            patient=f"{seed}-{number}",
            file="f",
            sha256="",
            shape=(40, 8, 8),
            known=(True,) * plan.num_outputs,
            classes={"grade": number % 2},
        )
        made.append(LoadedCase(entry, image, labels, points))
    return made


@pytest.mark.parametrize("pooling", ["attention", "global"])
def test_with_attention_a_class_may_show_far_from_the_foreground(pooling):
    plan = Plan.parse(
        {
            "dataset": "d",
            "channels": ["MRI"],
            "labels": {"tumour": 1},
            "spacing_mm": [1, 1, 1],
            "crop": "none",
            "normalisation": [{"scheme": "per_image"}],
            "coarse_axis": None,
            "patch_size": [16, 8, 8],
            "batch_size": 2,
            "mirror_axes": [],
            "network": {
                "features": [4, 8],
                "strides": [[1, 1, 1], [2, 2, 2]],
                "kernels": [[3, 3, 3]] * 2,
                "blocks": [1, 1],
            },
            "classification": {
                "heads": {"grade": ["low", "high"]},
                "view": "foreground",
                "pooling": pooling,
                "pool_labels": ["tumour"],
            },
        }
    )
    network = build_network(plan, seed=0)
    refit_heads(network, _far_away(plan, num_cases=30, seed=0), plan, device=torch.device("cpu"), dtype=None, seed=0)
    answers, truth = [], []
    with torch.inference_mode():
        for case in _far_away(plan, num_cases=30, seed=1):
            segments = [torch_segment(network, None)]
            _, classes, _ = infer_case([network], case.image, plan, segments=segments, overlap=0.0)
            answers.append(classes["grade"]["high"])
            truth.append(case.entry.classes["grade"])
    area = roc_auc_score(truth, answers)
    assert area > 0.95 if pooling == "attention" else area < 0.8


def test_what_the_network_sees_beyond_a_case_is_no_part_of_a_region(cases, monkeypatch):
    """Such a view is described as at inference, where windows answer for what is there alone."""
    store, (first, *_) = cases
    plan = store.plan
    shape = tuple(size - 4 for size in plan.patch_size)
    corners = torch.tensor([[len(plan.labels), 0, 0, 0], [len(plan.labels), *(size - 1 for size in shape)]])
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(3))
    entry = first.entry.model_copy(update={"shape": shape})
    case = LoadedCase(entry, image, torch.zeros(shape, dtype=torch.uint8), corners.short())
    monkeypatch.setattr(case_run, "_centre", lambda _: np.array([(size - 1) / 2 for size in shape]))
    network = build_network(plan, seed=1).eval()
    with torch.inference_mode():
        grid = WindowGrid.over(shape, plan.patch_size, 0.5)
        run = CaseRun([network], image, plan, segments=[torch_segment(network, None)], grid=grid)
        list(run.slabs())
        (view,), probabilities = run.views()
        expected = network.describe([view], probabilities)
        alone = network(view, views=torch.tensor([0])).described
    look = _Look(network, plan, torch.device("cpu"), None, num_views=2)
    found = look.described(case, np.random.default_rng(0))
    torch.testing.assert_close(found[:1], expected, rtol=1e-3, atol=1e-3)
    assert (alone - expected).abs().max() > 0.02  # what the network sees beyond it would have counted


def _scale(*, num_cases: int, seed: int) -> Task:
    """Three steps of one feature, the middle one between the others."""
    random = np.random.default_rng(seed)
    targets = np.arange(num_cases) % 3
    features = random.normal(size=(num_cases, 1, 6))
    features[:, 0, 0] += 2.0 * targets
    patients = np.array([str(number) for number in range(num_cases)])
    return Task(torch.from_numpy(features), torch.from_numpy(targets), patients, (6,))


def test_an_ordered_head_is_fitted_with_its_steps_in_order():
    fitted = fit_layer(_scale(num_cases=60, seed=0), OrdinalLayer(6, 3), seed=0)
    new = _scale(num_cases=300, seed=1)
    assert fitted is not None
    answers = fitted(new.features[:, 0]).argmax(1)
    assert weighted_kappa(answers.numpy(), new.targets.numpy(), num_classes=3) > 0.7
    lowest, highest = (fitted(torch.tensor([[value, 0, 0, 0, 0, 0]], dtype=torch.float64)) for value in (-4.0, 8.0))
    assert (int(lowest.argmax()), int(highest.argmax())) == (0, 2)
    assert not torch.equal(fitted.bias, OrdinalLayer(6, 3).bias)


def test_the_layer_of_a_frozen_network_can_be_fitted_again():
    """Training ends with averaged weights, which ask for no gradient."""
    task = _task()
    frozen, free = nn.Linear(5, 2).requires_grad_(requires_grad=False), nn.Linear(5, 2)
    pairs = zip(fit_path(task, frozen, [0.1]), fit_path(task, free, [0.1]), strict=True)
    assert all(torch.equal(one.weight, other.weight) for one, other in pairs)


def _numbers(*, num_cases=60, signal=1.0, per_patient=1, seed=0) -> Task:
    """A value that the first of 20 features tells, but for noise of half a deviation."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(num_cases // per_patient, 2, 20)).repeat(per_patient, axis=0)
    noise = 0.5 * random.normal(size=num_cases // per_patient).repeat(per_patient)
    targets = signal * features[:, :, 0].mean(1) + noise
    patients = np.array([f"p{number // per_patient}" for number in range(num_cases)])
    return Task(torch.from_numpy(features), torch.from_numpy(targets), patients, (4, 16))


def test_a_number_is_fitted_for_patients_left_out():
    fitted, new = fit_number(_numbers(), nn.Linear(20, 1), seed=0), _numbers(num_cases=300, seed=1)
    assert fitted is not None
    answers = fitted(new.features).mean((1, 2))
    assert float((answers - new.targets).square().mean()) < 0.45  # 0.25 is the best possible, 0.75 the mean's


def test_features_that_foretell_no_number_leave_the_trained_layer_alone():
    """Cases of one patient are alike: only leaving whole patients out shows that nothing was learnt.

    A gain of more than its standard error comes by chance about once in seven times.
    """
    tasks = [_numbers(signal=0.0, per_patient=3, seed=seed) for seed in range(8)]
    apart = [Task(one.features, one.targets, np.arange(60).astype(str), one.blocks) for one in tasks]
    fitted, naive = ([fit_number(one, nn.Linear(20, 1), seed=0) for one in some] for some in (tasks, apart))
    assert sum(one is not None for one in fitted) <= 2
    assert all(one is not None for one in naive)


@pytest.mark.parametrize("task", [_numbers(num_cases=9), _numbers(num_cases=20, per_patient=5)])
def test_too_few_values_or_patients_leave_the_trained_layer_alone(task):
    assert fit_number(task, nn.Linear(20, 1), seed=0) is None


def test_a_constant_number_leaves_the_trained_layer_alone():
    task = _numbers()
    same = Task(task.features, torch.zeros_like(task.targets), task.patients, task.blocks)
    assert fit_number(same, nn.Linear(20, 1), seed=0) is None


@pytest.mark.usefixtures("few_penalties")
def test_a_target_is_refitted_in_standard_deviations_and_missing_values_teach_nothing(cases):
    store, known = cases
    target = Target(unit="years", n=9, mean=60.0, std=10.0, low=40.0, high=80.0)
    plan = store.plan.model_copy(
        update={
            "classification": store.plan.classification.model_copy(update={"heads": {}, "targets": {"age": target}})
        }
    )
    told = [
        LoadedCase(
            case.entry.model_copy(update={"classes": {}, "values": {"age": 45.0 + 30.0 * (number % 2)}}),
            case.image + 3.0 * (number % 2),
            case.labels,
            case.foreground,
        )
        for number, case in enumerate(known)
    ]
    untold = LoadedCase(
        told[0].entry.model_copy(update={"values": {}}),
        torch.full_like(known[0].image, torch.nan),
        known[0].labels,
        known[0].foreground,
    )
    weights = []
    for shown in (told, [*told, untold]):
        network = build_network(plan, seed=1)
        refit_heads(network, shown, plan, device=torch.device("cpu"), dtype=None, seed=2)
        weights.append(network.head.heads["age"].weight.clone())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], build_network(plan, seed=1).head.heads["age"].weight)
    assert float(network.head.heads["age"].bias.detach().abs()) < 60  # of deviations, not of years
