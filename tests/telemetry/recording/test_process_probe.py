"""The load of real processes."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

pytest.importorskip("psutil")

from telemetry.recording.process_probe import ProcessProbe

MIB_64 = 64 << 20


def test_memory_and_processor_time_include_child_processes() -> None:
    probe = ProcessProbe()
    alone = probe.read()
    assert alone.keys() == {"memory"}
    code = f"""
import sys, time
block = bytearray({MIB_64})
end = time.process_time() + 0.2
while time.process_time() < end: pass
print(flush=True)
sys.stdin.read()
"""
    start = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        busy = probe.read()
        elapsed = time.monotonic() - start
        child.communicate()
    assert busy["memory"] - alone["memory"] > 0.9 * MIB_64 / 2**30
    assert busy["cpu"] >= 0.9 * 100 * 0.2 / elapsed
    # The time of a child that has ended still counts, once.
    after = probe.read()
    assert 0 <= after["cpu"] < 400
    assert after["memory"] < busy["memory"]
