"""The engine under the address and undefined behaviour sanitizers, with random honest and hostile clients (fuzz_rpc.c)."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
STEPS = 20_000
DEADLINE_S = 120


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fuzz") / "fuzz_rpc"
    command = [
        "cc",
        "-g",
        "-O1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=undefined",
        "-o",
        str(out),
        str(HERE / "fuzz_rpc.c"),
        *map(str, (HERE.parents[1] / "oncrpc" / "engine").glob("*.c")),
        "-lpthread",
    ]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"no compiler with sanitizers here: {built.stderr[-200:]}")
    return out


@pytest.mark.parametrize("number", [1, 2, 3, None], ids=["1", "2", "3", "new"])
def test_random_clients_get_their_answers_and_nothing_breaks(program: Path, number: int | None) -> None:
    seed = random.randrange(1 << 30) if number is None else number  # printed when it fails
    run = subprocess.run([program, str(seed), str(STEPS)], capture_output=True, text=True, timeout=DEADLINE_S)
    assert run.returncode == 0, f"seed {seed}: {run.stdout}{run.stderr[-4000:]}"
