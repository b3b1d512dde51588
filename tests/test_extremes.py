"""What the other files' sizes and numbers do not reach."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import sgs


def test_scale_and_step_beyond_float32() -> None:
    guide = np.array([[0.0, 0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(sgs.edge_weights(guide, 1, 1e-50, channel_axis=0), [[1, 0]])
    np.testing.assert_array_equal(sgs.edge_weights(guide, 1, 1e50, channel_axis=0), [[1, 1]])
    np.testing.assert_array_equal(sgs.edge_weights(guide, 1, 1.0, step=1e60, channel_axis=0), [[0, 0]])


@pytest.mark.parametrize("name", ["64-v3", "3", "v", "-v3", "", "x86-64-v33"])
def test_no_instruction_set_by_a_part_of_its_name(name: str) -> None:
    with pytest.raises(ValueError, match="instruction set"):
        sgs.set_isa(name)


def test_one_long_line_is_interrupted() -> None:
    code = textwrap.dedent("""
        import os, signal, threading
        import numpy as np
        import sgs
        x = np.broadcast_to(np.float32(1), 300_000_000)
        out = np.zeros(300_000_000, np.float32)
        w = np.broadcast_to(np.float32(0.5), 299_999_999)
        threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            sgs.scan(x, w, out=out)
        except KeyboardInterrupt:
            print(np.count_nonzero(out[::1000]))
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout, "it was not interrupted"
    assert int(done.stdout) < 300_000, "all steps were taken"
