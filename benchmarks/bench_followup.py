"""Lesion matching on simulated pairs of examinations with known truth, misaligned by 5 mm and 5 degrees.

Lesions are ellipsoids in a body of 16 x 12 x 14 cm: stable, grown, shrunk, vanished, split, merged and new ones, drawn
into two masks on different oblique, anisotropic grids. An answer is a link (earlier lesion, later lesion), a lesion
that vanished or a new one; F1 counts them all. Writes benchmarks/results/followup.json.

    python benchmarks/bench_followup.py [--pairs 200] [--seed 70000]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseg.clinical.change import change_state
from medseg.clinical.examination import find_lesions
from medseg.clinical.matching import match_lesions
from medseg.clinical.tracking import FollowUpRules
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.ops.alignment import Alignment
from medseg.workflows.config import packaged, read_yaml

RADII_MM = np.array([80.0, 60.0, 70.0])
MISALIGNED_MM, MISALIGNED_DEGREES = 5.0, 5.0
LEAST_GAP_MM = 3.0


@dataclass
class Ellipsoid:
    centre: np.ndarray
    axes: np.ndarray  # (3, 3) rows: unit vectors over radii
    radius: float

    def holds(self, points):
        return (((points - self.centre) @ self.axes.T) ** 2).sum(axis=1) <= 1


@dataclass
class Pair:
    """Two masks, and the truth: links of components, by the centres of what they were drawn from."""

    earlier: LabelMap
    later: LabelMap
    links: set
    states: dict = field(default_factory=dict)


def rotation(degrees, axis):
    axis = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def ellipsoid(rng, centre, radius, stretch=None):
    stretch = rng.uniform(0.8, 1.25, 3) if stretch is None else np.asarray(stretch)
    stretch = stretch / np.prod(stretch) ** (1 / 3)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return Ellipsoid(np.asarray(centre, float), turn / (radius * stretch)[:, None], radius)


def scaled(shape, factor):
    return Ellipsoid(shape.centre, shape.axes / factor ** (1 / 3), shape.radius * factor ** (1 / 3))


def free_place(rng, taken, radius):
    for _ in range(400):
        place = rng.normal(size=3)
        place *= rng.random() ** (1 / 3) / np.linalg.norm(place)
        place = place * (RADII_MM - radius - 4)
        if all(np.linalg.norm(place - c) > radius * 1.45 + r * 1.45 + LEAST_GAP_MM for c, r in taken):
            taken.append((place, radius))
            return place
    return None


def simulate(seed):
    """One pair; every lesion is a list of shapes that touch."""
    rng = np.random.default_rng(seed)
    taken, before, after, links, states = [], [], [], [], {}
    fates = rng.choice(
        ["stable", "grown", "shrunk", "vanished", "split", "merged"],
        rng.integers(1, 19),
        p=[0.28, 0.2, 0.2, 0.12, 0.1, 0.1],
    )
    for fate in fates:
        radius = rng.uniform(8, 13) if fate == "split" else np.exp(rng.uniform(np.log(3), np.log(11)))
        place = free_place(rng, taken, radius * (2.2 if fate == "merged" else 1.0))
        if place is None:
            continue
        if fate == "split":
            draw_split(rng, place, radius, before, after, links, states)
        elif fate == "merged":
            draw_merger(rng, place, radius, before, after, links, states)
        else:
            factor = {"stable": rng.uniform(0.97, 1.03), "grown": rng.uniform(2, 3), "shrunk": rng.uniform(0.2, 0.45)}
            shape = ellipsoid(rng, place, radius)
            before.append([shape])
            if fate == "vanished":
                links.append((len(before) - 1, None))
                continue
            after.append([scaled(shape, factor[fate])])
            links.append((len(before) - 1, len(after) - 1))
            states[len(before) - 1, len(after) - 1] = fate
    for _ in range(rng.poisson(1.2)):
        radius = np.exp(rng.uniform(np.log(3), np.log(9)))
        place = free_place(rng, taken, radius)
        if place is not None:
            after.append([ellipsoid(rng, place, radius)])
            links.append((None, len(after) - 1))
    return drawn(rng, before, after, links, states)


def draw_split(rng, place, radius, before, after, links, states):
    whole = ellipsoid(rng, place, radius, (1.5, 0.85, 0.8))
    along = np.linalg.inv(whole.axes)[:, 0]
    before.append([whole])
    for sign, size in ((1, rng.uniform(0.42, 0.52)), (-1, rng.uniform(0.36, 0.46))):
        after.append([ellipsoid(rng, place + sign * 0.55 * along, radius * size, (1, 1, 1))])
        links.append((len(before) - 1, len(after) - 1))
        states[links[-1]] = "split"


def draw_merger(rng, place, radius, before, after, links, states):
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    radii = radius * rng.uniform(0.8, 1.1, 2)
    half = (radii.sum() + 4) / 2
    two = [ellipsoid(rng, place + s * half * direction, r, (1, 1, 1)) for s, r in zip((1, -1), radii, strict=True)]
    before.extend([[one] for one in two])
    after.append(
        [*(scaled(one, rng.uniform(1.5, 2)) for one in two), ellipsoid(rng, place, radii.min() * 0.8, (1, 1, 1))]
    )
    for n in (2, 1):
        links.append((len(before) - n, len(after) - 1))
        states[links[-1]] = "merged"


def grid(rng):
    spacing = rng.uniform([0.7, 0.7, 1.0], [1.5, 1.5, 3.0])
    turn = rotation(rng.uniform(0, 15), rng.normal(size=3)) @ np.diag(rng.choice([-1, 1], 3))
    shape = tuple(int(n) for n in np.ceil(2 * 92 / spacing))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2) + rng.uniform(-3, 3, 3)
    return Geometry(shape, affine)


def draw(lesions, geometry, motion):
    """(I, J, K) with each lesion's number from 1; `motion` takes drawing space to the grid's."""
    mask = np.zeros(geometry.shape, np.uint16)
    for number, shapes in enumerate(lesions, start=1):
        for shape in shapes:
            middle = geometry.to_index(motion[:3, :3] @ shape.centre + motion[:3, 3])
            reach = 1.8 * shape.radius / np.asarray(geometry.spacing_mm) + 2
            low = np.maximum(0, np.floor(middle - reach)).astype(int)
            high = np.minimum(geometry.shape, np.ceil(middle + reach) + 1).astype(int)
            index = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), -1)
            points = (geometry.to_world(index) - motion[:3, 3]) @ motion[:3, :3]
            inside = shape.holds(points.reshape(-1, 3)).reshape(index.shape[:3])
            mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]][inside] = number
    return LabelMap(mask, geometry)


def drawn(rng, before, after, links, states):
    motion = np.eye(4)
    motion[:3, :3] = rotation(MISALIGNED_DEGREES, rng.normal(size=3))
    shift = rng.normal(size=3)
    motion[:3, 3] = MISALIGNED_MM * shift / np.linalg.norm(shift)
    earlier, later = draw(before, grid(rng), np.eye(4)), draw(after, grid(rng), motion)
    return Pair(earlier, later, set(links), states)


def answer(pair, rules):
    """Links in the numbers of the truth (from 0), and the state of each."""
    found = [
        find_lesions(binary(mask), labels={"lesion": 1}, lesions={"lesion"}, alignment=Alignment.identity())[0]
        for mask in (pair.earlier, pair.later)
    ]
    numbers = [
        [most_common(truth, lesion) for lesion in lesions]
        for truth, lesions in zip((pair.earlier, pair.later), found, strict=True)
    ]
    earlier, later = ([lesion.shape for lesion in lesions] for lesions in found)
    matching = match_lesions(earlier, later, rules=rules.matching)
    links = {(numbers[0][a], numbers[1][b]) for a, b in matching.pairs}
    links |= {(numbers[0][a], numbers[1][b]) for b, a in matching.parts.items()}
    links |= {(numbers[0][a], numbers[1][b]) for a, b in matching.swallowed.items()}
    linked = {a for a, _ in links}, {b for _, b in links}
    links |= {(n, None) for n in numbers[0] if n not in linked[0]} | {
        (None, n) for n in numbers[1] if n not in linked[1]
    }
    return links, states_of(matching, numbers, found, rules)


def states_of(matching, numbers, found, rules):
    states = {}
    split, merged = set(matching.parts.values()), set(matching.swallowed.values())
    for a, b in matching.pairs:
        state = "split" if a in split else "merged" if b in merged else None
        before, after = found[0][a].measurement, found[1][b].measurement
        states[numbers[0][a], numbers[1][b]] = state or change_state(before, after, rules=rules.change)
    states |= {(numbers[0][a], numbers[1][b]): "split" for b, a in matching.parts.items()}
    return states | {(numbers[0][a], numbers[1][b]): "merged" for a, b in matching.swallowed.items()}


def binary(labels):
    return LabelMap((labels.array > 0).astype(np.uint8), labels.geometry)


def most_common(truth, lesion):
    return int(np.bincount(truth.array[tuple(lesion.voxels.T)]).argmax()) - 1


def score(seeds, rules):
    counts, states, confusion = Counter(), Counter(), Counter()
    started = time.perf_counter()
    for seed in seeds:
        pair = simulate(seed)
        links, found = answer(pair, rules)
        counts += Counter(hit=len(links & pair.links), extra=len(links - pair.links), lost=len(pair.links - links))
        for link, state in pair.states.items():
            states[state, found.get(link) == state] += 1
            confusion[f"{state} -> {found.get(link, 'not linked')}"] += 1
    kinds = sorted({state for state, _ in states})
    return {
        "pairs": len(seeds),
        "answers": counts["hit"] + counts["lost"],
        "f1": 2 * counts["hit"] / (2 * counts["hit"] + counts["extra"] + counts["lost"]),
        "recall": counts["hit"] / (counts["hit"] + counts["lost"]),
        "precision": counts["hit"] / (counts["hit"] + counts["extra"]),
        "states_right": {k: states[k, True] / (states[k, True] + states[k, False]) for k in kinds},
        "confusion": dict(sorted(confusion.items())),
        "seconds": time.perf_counter() - started,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=70_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "followup.json")
    chosen = parser.parse_args()
    rules = FollowUpRules.parse(read_yaml(packaged("configs", "follow_up.yaml")))
    result = score(range(chosen.seed, chosen.seed + chosen.pairs), rules)
    result |= {"first_seed": chosen.seed, "misaligned_mm": MISALIGNED_MM, "misaligned_degrees": MISALIGNED_DEGREES}
    chosen.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
