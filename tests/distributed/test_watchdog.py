"""Jobs that hang or lose a rank end soon, tell where the ranks stood, and name the rank that is to blame."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator

import psutil
import pytest
from jobs import (
    END_CODES,
    HELD_GIL,
    LAUNCHERS,
    LIMIT_S,
    NO_DATA,
    Folder,
    endless,
    kill_all,
    planted,
    prepared,
    stop,
)

pytestmark = pytest.mark.alone

HANG_S = 3.0
END_S = 2.0
"""Within which a job is to end once it is known to hang, or once a rank of it has failed."""
OTHERS_S = 5.0
"""Within which another launcher than ours sees that."""
LOAD_S = 3.0
"""More than that, for a machine that has other work at the time."""
TORCHRUN = pytest.param("torchrun", marks=pytest.mark.long)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    folder = prepared(tmp_path_factory.mktemp("watchdog"))
    yield folder
    kill_all(folder)


@pytest.fixture(autouse=True)
def nothing_left(folder: Folder) -> Iterator[None]:
    (folder.path / "planted.txt").unlink(missing_ok=True)
    yield
    kill_all(folder)


def command(run: str) -> list[str]:
    return ["config.yaml", *endless(run), f"run.hang_seconds={HANG_S}"]


def ended(
    folder: Folder, process: subprocess.Popen[str], since: float, limit: float, codes: tuple[int, ...] = (1,)
) -> list[str]:
    """The lines of a job that is to end with 1, and with all its processes, so many seconds after its fault."""
    code = process.wait(LIMIT_S)
    _, alive = psutil.wait_procs(folder.processes(), timeout=limit)
    seconds = time.time() - since
    print(f"ended after {seconds:.2f} s, limit {limit} s")
    assert code in codes, folder.output()
    assert not alive, folder.output()
    assert seconds < limit + END_S + LOAD_S, folder.output()
    return folder.output().splitlines()


@pytest.mark.parametrize("launcher", ["agenttune", "deepspeed", TORCHRUN])
def test_a_stopped_rank(folder: Folder, launcher: str) -> None:
    rank = random.randrange(2)
    process = folder.start(*LAUNCHERS[launcher], *command(launcher))
    folder.wait_for_steps(launcher, 1, process)
    lines = ended(folder, process, stop(folder, rank), HANG_S, END_CODES[launcher])
    found = f"rank {rank} is stopped (by SIGSTOP or a debugger)"
    first = next(i for i, line in enumerate(lines) if "no progress for 3 s after step" in line)
    assert lines[first].endswith(found)
    assert lines[first + 1 :].count(f"agenttune: {found}") == 1
    assert f"agenttune: rank {1 - rank} stands at (most recent call first):" in lines[first:]
    assert any(line.endswith("in train_step") for line in lines[first:])
    if launcher == "agenttune":
        assert lines[-1] == f"agenttune: the training was ended: {found}"
        assert not any("Error" in line for line in lines), lines


def test_a_held_gil(folder: Folder) -> None:
    process, since = planted(folder, 1, HELD_GIL, *LAUNCHERS["agenttune"], *command("gil"))
    lines = ended(folder, process, since, HANG_S)
    found = "rank 1 is in a call that holds the GIL"
    first = lines.index(f"agenttune: no progress for 3 s after step 2: {found}")
    assert "agenttune: rank 0 stands at (most recent call first):" in lines[first:]
    theirs = lines.index(f"agenttune: {found}; it stands at (most recent call first):")
    assert lines[theirs + 1] == '  File "<string>", line 1 in <module>'
    assert "sitecustomize.py" in lines[theirs + 2]
    assert lines[-1] == f"agenttune: the training was ended: {found}"


@pytest.mark.parametrize("launcher", ["agenttune", "deepspeed"])
def test_an_error_is_told_once(folder: Folder, launcher: str) -> None:
    """And not what the others met when their peer was gone, which is in their logs."""
    run = f"once-{launcher}"
    process, since = planted(folder, 1, "raise OSError('planted')", *LAUNCHERS[launcher], *command(run))
    limit = 0 if launcher == "agenttune" else OTHERS_S
    lines = ended(folder, process, since, limit, (*END_CODES[launcher], 247))
    log = f"{run}/logs/rank-0000{{}}.log"
    said = [line for line in lines if line.startswith("agenttune: rank")]
    assert said == [f"agenttune: rank 1: OSError: planted (see {log.format(1)})"]
    assert "peer" not in "".join(lines)
    assert "Traceback" in (folder.path / log.format(1)).read_text()


def test_a_rank_that_leaves_before_its_work_is_done(folder: Folder) -> None:
    code = "import os; os._exit(0)"
    process, since = planted(folder, 1, code, *LAUNCHERS["agenttune"], *command("leaves"))
    lines = ended(folder, process, since, 0)
    assert lines[-1] == "agenttune: the training was ended: rank 1 failed, was killed or left first"


@pytest.mark.parametrize("launcher", ["agenttune", "deepspeed", TORCHRUN])
def test_a_rank_that_alone_has_no_data(folder: Folder, launcher: str) -> None:
    process, since = planted(folder, 1, NO_DATA, *LAUNCHERS[launcher], *command(f"starved-{launcher}"))
    # DeepSpeed's launcher may see first that the others lost their connection, or were killed.
    codes = {"agenttune": (3,), "torchrun": (1,), "deepspeed": (3, *END_CODES["deepspeed"])}[launcher]
    lines = ended(folder, process, since, 0 if launcher == "agenttune" else OTHERS_S, codes)
    named = lines.index("agenttune: rank 1 alone ends the training: others have got past this")
    assert lines[named + 1] == "agenttune: planted: no rows"
    assert launcher != "agenttune" or lines[named + 2 :] == []


def test_a_failure_beside_a_stopped_rank(folder: Folder) -> None:
    """DeepSpeed's launcher would wait half a minute for it."""
    code = "import time; time.sleep(1); 1 / 0"
    process, since = planted(folder, 1, code, *LAUNCHERS["agenttune"], *command("raises"))
    stop(folder, 0)
    lines = ended(folder, process, since + 1, 0)
    log = "raises/logs/rank-00001.log"
    assert f"agenttune: rank 1: ZeroDivisionError: division by zero (see {log})" in lines
    assert "Traceback" in (folder.path / log).read_text()
    assert lines[-1] == "agenttune: the training was ended: rank 1 failed, was killed or left first"
