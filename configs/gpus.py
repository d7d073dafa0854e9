"""GPU types, as their makers' datasheets describe them. One table: MFU and the plan divide by the same peak."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One device. Bandwidths are bytes per second."""

    name: str
    memory: float
    """Bytes, in the datasheet's gigabytes of 10^9. A device reports up to 7% more, which is left to what its allocator
    cannot use."""
    flops: float
    """Dense bfloat16 peak of the tensor cores, per second."""
    flops32: float
    """Of float32 without tensor cores, which is what torch computes by default."""
    memory_bandwidth: float
    link: float
    """To the other GPUs of a node, in one direction."""
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h100", 80e9, 989e12, 67e12, 3.35e12, 450e9, "NVIDIA H100 datasheet, SXM"),
        Gpu("h200", 141e9, 989e12, 67e12, 4.8e12, 450e9, "NVIDIA H200 datasheet, SXM"),
        Gpu(
            "b200", 180e9, 2250e12, 75e12, 8.0e12, 900e9, "NVIDIA HGX B200 datasheet, an eighth of its 8 GPUs"
        ),
        Gpu("a100-80", 80e9, 312e12, 19.5e12, 2.039e12, 300e9, "NVIDIA A100 datasheet, SXM 80GB"),
        Gpu("a100-40", 40e9, 312e12, 19.5e12, 1.555e12, 300e9, "NVIDIA A100 datasheet, SXM 40GB"),
        Gpu("l40s", 48e9, 362e12, 91.6e12, 0.864e12, 32e9, "NVIDIA L40S datasheet; no NVLink, PCIe 4.0 x16"),
    )
}
"""By the name that commands take. The datasheets' peaks with sparsity are halved."""
_VARIANTS = {"PCIE", "NVL", "MIG"}
_ONE_SIZE = ("h100", "h200", "b200", "l40s")
"""Drivers may name them without their memory."""


def gpu_named(device: str) -> Gpu | None:
    """The type of a device by the name that its driver gives it ("NVIDIA H100 80GB HBM3"), None where it is not known.

    Variants with other peaks or links (PCIe, NVL, a part of a GPU, one joined to a CPU) are none of the table's.
    """
    words = set(re.findall(r"[A-Z0-9.]+", device.upper()))
    sizes = {int(word[:-2]) for word in words if re.fullmatch(r"\d+GB", word)}
    if words & _VARIANTS:
        return None
    for gpu in GPUS.values():
        family, _, _ = gpu.name.upper().partition("-")
        has = int(gpu.memory / 1e9)
        if family in words and (sizes == {has} or (not sizes and gpu.name in _ONE_SIZE)):
            return gpu
    return None
