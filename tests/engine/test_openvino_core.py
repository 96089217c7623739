"""Networks that OpenVINO runs come and go without leaving Python to crash at the next signal."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Two networks, of which the first is given up first; then a signal as Ctrl-C or a scheduler sends it.
TWO = """
import gc, os, signal, sys
from pathlib import Path
import openvino
from openvino import opset13
from medseg.engine.export_formats import KINDS

value = opset13.parameter([2])
path = Path(sys.argv[1]) / "double.xml"
openvino.save_model(openvino.Model([opset13.add(value, value)], [value]), path)
runs = [KINDS["openvino"].load(path) for _ in range(2)]
runs[0] = None
gc.collect()
runs[1] = None
gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("heard"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_is_heard_after_networks_have_come_and_gone(tmp_path):
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", TWO, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
