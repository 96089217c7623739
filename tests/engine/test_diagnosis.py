from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from medseg.core.plan import MISSING_CLASS
from medseg.data.store import LoadedCase, Store, open_store
from medseg.engine.diagnosis import Task, _folds, fit_layer, fit_path, refit_heads
from medseg.engine.stop import Stopped
from medseg.nn.build import build_network
from medseg.workflows.workspace import Workspace


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


def test_a_stop_changes_nothing(cases):
    store, known = cases
    network = build_network(store.plan, seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    asked = iter([False, True])
    with pytest.raises(Stopped):
        refit_heads(
            network,
            known,
            store.plan,
            device=torch.device("cpu"),
            dtype=None,
            seed=2,
            stop_asked=lambda: next(asked),
        )
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_layer_of_a_frozen_network_can_be_fitted_again():
    """Training ends with averaged weights, which ask for no gradient."""
    task = _task()
    frozen, free = nn.Linear(5, 2).requires_grad_(requires_grad=False), nn.Linear(5, 2)
    pairs = zip(fit_path(task, frozen, [0.1]), fit_path(task, free, [0.1]), strict=True)
    assert all(torch.equal(one.weight, other.weight) for one, other in pairs)
