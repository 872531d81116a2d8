"""Which device and which number type a model computes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
    """Whether this CPU has bfloat16 matrix units (AMX); else bfloat16 is the slower type."""
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    # Older versions of torch; every CPU with such tiles multiplies bfloat16.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
