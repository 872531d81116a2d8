"""What a model computes on: device, number type, threads and machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tempomask.errors import InputError

if TYPE_CHECKING:
    import torch

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = ("float32", "bfloat16", "float16")


def resolve_device(device: str | int | torch.device) -> torch.device:
    """The torch device for a name or number; InputError if it is not on this machine."""
    import torch

    if isinstance(device, int) and not isinstance(device, bool):
        device = f"cuda:{device}"
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"unknown device {device!r}; use auto, cpu, cuda, cuda:1 or mps") from None
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {device!r} asked for, but {torch.cuda.device_count()} CUDA GPUs are there;"
            " use auto or cpu"
        )
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device mps asked for, but no Apple GPU is there; use auto or cpu")
    if place.type not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {device!r} is not supported; use auto, cpu, cuda, cuda:1 or mps")
    return place


def cuda_devices(wanted: str) -> list[str]:
    """The CUDA devices that "all" or "0,2" means, by the names CUDA_VISIBLE_DEVICES has for them.

    Raises:
        InputError: One of them is not there, or none is.
    """
    import torch

    shown = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    there = shown[:count] or [str(index) for index in range(count)]
    asked = there if wanted == "all" else [name.strip() for name in wanted.split(",")]
    missing = [name for name in asked if name not in there]
    if missing or not asked:
        known = f"there are {', '.join(there)}" if there else "no CUDA GPU is there; leave it out"
        raise InputError(f"--gpus {wanted}: {known}")
    return asked


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The torch dtype for a name on a device; InputError for other names."""
    import torch

    if isinstance(dtype, torch.dtype):
        dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto":
        if device.type == "cuda":
            fast = gpu_multiplies_bfloat16(device)
        else:
            fast = device.type == "cpu" and cpu_multiplies_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; use auto, {', '.join(DTYPES)}")
    if dtype == "float16" and device.type == "cpu":
        raise InputError("float16 does not run on a CPU; use auto, bfloat16 or float32")
    return getattr(torch, dtype)


def gpu_multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has bfloat16 matrix units: NVIDIA's from Ampere on; AMD's by torch's word."""
    import torch

    if torch.version.hip is not None:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device) >= (8, 0)


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16, by AMX or AVX-512; else it is the slower type."""
    import torch

    # Less than the CPU has, where ATEN_CPU_CAPABILITY asks for that.
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("amx_bf16", False) or has.get("avx512_bf16", False))
    # Older versions of torch know of AMX alone; every CPU that has it multiplies bfloat16.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def set_threads(threads: int | None) -> None:
    """Compute with so many threads from now on, in the whole process; None changes nothing."""
    if threads is None:
        return
    check_threads(threads)
    import torch

    torch.set_num_threads(threads)


def check_threads(threads: int) -> None:
    """InputError for a number of threads that is none, or more than a machine can start."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if type(threads) is not int or not 1 <= threads <= most:
        raise InputError(f"threads must be from 1 to {most} here, got {threads!r}")


def processor() -> str:
    """The processor's name and which of AVX2, AVX-512, bfloat16 and AMX instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    flags = set(fields.get("flags", "").split())
    names = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "bfloat16", "amx_tile": "AMX"}
    found = [name for flag, name in names.items() if flag in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(found) or 'plain'})"


def computation(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Device, type, threads, machine and versions, for reports."""
    import torch

    from tempomask import __version__

    return {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "machine": processor(),
        "tempomask": __version__,
        "torch": torch.__version__,
    }
