"""The C++ kernels under g++'s thread sanitizer: no two threads touch one place unless they may."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spikesparse.ops import cpu

pytestmark = [
    pytest.mark.slow,  # each compiles for some five seconds
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="needs g++ on Linux"),
]
DRIVER = Path(__file__).with_name("thread_sanitizer.cpp")
KERNELS = ("moments", "forward", "backward", "pack", "unpack")
# A race for each kernel: what keeps its threads apart -> what would not.
RACES = {
    "__atomic_fetch_add(&count, more, __ATOMIC_RELAXED);": "count += more;",
    "channel_sums + 2 * channels * chunk + tile": "channel_sums + tile",
    "= sums + 2 * channels * chunk,": "= sums,",
    "bits + row * row_bytes + c / 8": "bits + c / 8",
    "x + row * channels;": "x;",
}


def races_in(source, folder):
    """The kernels of that source in which the sanitizer reports a data race."""
    compiled, program = folder / "driver.o", folder / "driver"
    flags = ["-O1", "-g", "-std=c++17", "-ffp-contract=off", "-fsanitize=thread"]
    subprocess.run(
        ["g++", *flags, "-fopenmp", f'-DKERNELS="{source}"', "-c", str(DRIVER), "-o", str(compiled)], check=True
    )
    # Without -fopenmp: the driver stands in for libgomp.
    linked = subprocess.run(
        ["g++", *flags, str(compiled), "-o", str(program), "-pthread"], capture_output=True, text=True
    )
    if "tsan" in linked.stderr:
        pytest.skip("g++ has no thread sanitizer here: install libtsan")
    assert linked.returncode == 0, linked.stderr
    for plainly in ([], ["setarch", platform.machine(), "-R"]):  # some kernels scatter addresses too far for it
        if plainly and not shutil.which("setarch"):
            continue
        ran = subprocess.run([*plainly, str(program)], capture_output=True, text=True, timeout=300)
        if "unexpected memory mapping" not in ran.stderr:
            break
    else:
        pytest.skip("the thread sanitizer cannot start here: unexpected memory mapping")
    assert ran.stdout.count("spikes") == 14, ran.stderr  # it went all the way
    assert (ran.returncode == 66) == ("WARNING: ThreadSanitizer: data race" in ran.stderr)
    assert ran.returncode in (0, 66), ran.stderr
    return {name for name in KERNELS if re.search(rf"\b{name}<", ran.stderr)} or ran.stderr


def test_no_kernel_has_a_data_race(tmp_path):
    assert not races_in(cpu.SOURCE, tmp_path)


def test_a_race_in_any_kernel_would_be_found(tmp_path):
    """What the test above can see: the same source with a race put into each kernel, one image's counts among them."""
    source = cpu.SOURCE.read_text()
    for right, wrong in RACES.items():
        assert source.count(right) == 1, right
        source = source.replace(right, wrong)
    (tmp_path / "racy.cpp").write_text(source)
    assert races_in(tmp_path / "racy.cpp", tmp_path) == set(KERNELS)
