"""TensorFlow comes in silence, and leaves the process as it found it."""

import subprocess
import sys
from pathlib import Path

import pytest
import quiet

IMPORTED = """
import gc, sys
{before}
import quiet
tf = quiet.tensorflow()
assert tf is quiet.tensorflow() is sys.modules["tensorflow"]
import matplotlib, sklearn  # were hidden for the while
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


@pytest.mark.parametrize("enabled", [True, False])
def test_tensorflow_comes_in_silence_and_garbage_is_collected_as_before(enabled):
    line = [sys.executable, "-c", IMPORTED.format(before="" if enabled else "gc.disable()")]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(quiet.__file__).parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{enabled} True\n", "")


def test_only_standard_error_is_silenced_and_only_for_a_while(capfd):
    with pytest.raises(ValueError, match="passes"), quiet.stderr():
        subprocess.run(
            [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr)"],
            check=True,
        )
        raise ValueError("passes")
    print("after", file=sys.stderr)
    assert capfd.readouterr() == ("out\n", "after\n")
