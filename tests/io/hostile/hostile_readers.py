"""Readers that misbehave, in a module that the reading process can import as it does the real ones."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from medseg.core.errors import GeometryError
from medseg.io.decoded import Decoded


def segfault(path, options):
    ctypes.string_at(1)


def abort(path, options):
    os.abort()


def leave(path, options):
    os._exit(0)


def leave_loudly(path, options):
    os._exit(9)


def give_up(path, options):
    sys.exit(3)


def sleep(path, options):
    time.sleep(60)


def doze(path, options):
    time.sleep(2)
    return pid(path, options)


def deaf(path, options):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(60)


def spin(path, options):
    while True:
        pass


def eat(path, options):
    return np.ones(1 << 40, np.uint8)


def nibble(path, options):
    held = []
    while True:
        held.append(np.ones(1 << 24, np.uint8))


def fail(path, options):
    raise RuntimeError("Jane Doe 1970")


def disk(path, options):
    raise OSError(5, "Input/output error")


def recurse(path, options):
    return recurse(path, options)


def refuse(path, options):
    raise GeometryError("no place", code="E-SPACING", remedy="Look.", file=path)


def write(path, options):
    with (Path(path).parent / "out").open("wb") as file:
        for _ in range(3):
            file.write(bytes(1 << 26))


def keeper(path, options):
    return Decoded(np.full((1, 1, 1), os.getppid()), np.eye(4))


def pid(path, options):
    return Decoded(np.full((1, 1, 1), os.getpid()), np.eye(4))


def settled(path, options):
    numbers = [options.channels, *options.onto.shape, options.names["a"], len(options.names)]
    return Decoded(np.array(numbers).reshape(1, 1, -1), options.onto.affine, (options.reading.series,))


def modules(path, options):
    heavy = {"torch", "monai", "SimpleITK", "itk"} & set(sys.modules)
    return Decoded(np.full((1, 1, 1), len(heavy)), np.eye(4))


def loads(path, options):
    known = "pydicom" in sys.modules
    import pydicom  # noqa: F401

    return Decoded(np.full((1, 1, 1), int(known)), np.eye(4))


def remains(path, options):
    remains.count = getattr(remains, "count", 0) + 1
    return Decoded(np.full((1, 1, 1), remains.count), np.eye(4))
