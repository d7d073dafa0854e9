"""Which hosts a job has, how many ranks each takes, and what is said where they do not fit."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.layout import Layout
from launch import hosts as hosts_module
from launch.hosts import Host, Hosts, crosses_hosts, find_hosts, read_hostfile
from launch.reach import AGENT, reach

IN_SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "gpu[1-2]"}


def written(folder: Path, text: str) -> Path:
    (folder / "hostfile").write_text(text)
    return folder / "hostfile"


def test_a_hostfile_is_read_as_deepspeed_reads_it(tmp_path: Path) -> None:
    file = written(tmp_path, "# ours\n\nworker-0 slots=8\n  worker-1   slots=4  # half\n")
    assert read_hostfile(file) == (Host("worker-0", 8), Host("worker-1", 4))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a slots=8\na slots=8\n", "hostfile:2: a for the second time"),
        ("a\n", "hostfile:1: 'a'; write a host as `name slots=8`"),
        ("a slots=0\n", "hostfile:1"),
        ("-oProxyCommand=x slots=1\n", "hostfile:1"),
        ("# none\n", "0 hosts, at least 1 needed"),
    ],
)
def test_a_hostfile_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_hostfile(written(tmp_path, text))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_hostfile(tmp_path / "absent")


def test_where_a_job_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "node_names", lambda nodes: {"gpu[1-2]": ["gpu1", "gpu2"]}[nodes])
    assert find_hosts(None, 8, {}) == Hosts((Host("localhost", 8),), "")
    assert find_hosts(None, 0, {}) == Hosts((Host("localhost", None),), "")
    assert find_hosts(None, 8, IN_SLURM) == Hosts((Host("gpu1", 8), Host("gpu2", 8)), "srun")
    for told, slots in (("4", 4), ("h100:8", 8), ("", None)):  # from a shell on a node without GPUs
        found = find_hosts(None, 0, IN_SLURM | {"SLURM_GPUS_PER_NODE": told})
        assert [host.slots for host in found.hosts] == [slots] * 2
    assert find_hosts(None, 8, IN_SLURM | {"SLURM_JOB_NUM_NODES": "1"}).reached_by == ""
    assert find_hosts(None, 8, IN_SLURM | {"SLURM_STEP_NUM_TASKS": "1"}).reached_by == "srun"
    with pytest.raises(ConfigError, match="started 2 times by srun: at most once"):
        find_hosts(None, 8, IN_SLURM | {"SLURM_STEP_NUM_TASKS": "2"})
    two = str(written(tmp_path, "a slots=2\nb slots=2\n"))
    assert find_hosts(two, 8, IN_SLURM) == Hosts((Host("a", 2), Host("b", 2)), "ssh")
    with pytest.raises(ConfigError, match="localhost is another machine for each of its 2 hosts"):
        find_hosts(str(written(tmp_path, "localhost slots=2\nb slots=2\n")), 8, {})
    alone = str(written(tmp_path, "localhost slots=2\n"))
    assert find_hosts(alone, 8, {}) == Hosts((Host("localhost", 2),), "")


@given(
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.integers(1, 8),
    data=st.integers(1, 4),
    slots=st.lists(st.one_of(st.none(), st.integers(1, 16)), min_size=1, max_size=6),
)
def test_each_host_takes_as_many_ranks_or_it_is_refused(
    tensor: int, pipeline: int, data: int, slots: list[int | None]
) -> None:
    layout = Layout(tensor, pipeline, data)
    hosts = Hosts(tuple(Host(f"h{i}", count) for i, count in enumerate(slots)), "ssh")
    ranks = tensor * pipeline * data
    fits = ranks % len(slots) == 0 and all(count is None or ranks // len(slots) <= count for count in slots)
    try:
        each = hosts.ranks_each(layout)
    except ConfigError:
        assert not fits
        return
    assert fits
    assert each * len(slots) == ranks
    groups = [range(first, first + tensor) for first in range(0, ranks, tensor)]
    assert crosses_hosts(layout, each) == any(group[0] // each != group[-1] // each for group in groups)


def test_ssh_hands_on_what_libraries_read_and_no_keys() -> None:
    environment = {
        "NCCL_SOCKET_IFNAME": "eth0",
        "PYTHONPATH": "/with space",
        "HF_TOKEN": "secret",
        "WANDB_API_KEY": "secret",
        "CUDA_VISIBLE_DEVICES": "3",
        "HOME": "/home/me",
    }
    command = reach("ssh", "gpu1", environment)
    assert command[:4] == ["ssh", "-o", "BatchMode=yes", "gpu1"]
    assert "secret" not in command[-1]
    words = shlex.split(command[-1].partition(" && ")[2])
    assert words[:4] == ["exec", "env", "NCCL_SOCKET_IFNAME=eth0", "PYTHONPATH=/with space"]
    assert words[-2:] == ["-m", AGENT]


def test_a_step_of_slurm_has_all_of_its_node() -> None:
    command = reach("srun", "gpu1", {"SLURM_CPUS_ON_NODE": "64"})
    assert {"--nodelist=gpu1", "--nodes=1", "--cpus-per-task=64", "--overlap", "--mem=0"} <= set(command)
