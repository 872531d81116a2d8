"""int8 instead of bfloat16 in the encoder's linear layers: time, error, and what it does to masks.

    python benchmarks/int8_trials.py --out int8.json
    python benchmarks/int8_trials.py --masks DAVIS --out int8_masks.json

The first times the layers of SAM 2.1-L's third stage, which has 36 of its 48 blocks, against the
engine's packed bfloat16 layers, and the whole encoder with oneDNN's int8 layers. The second
compares nano's masks, trained weights, with those of the plain float32 network, on a folder in the
DAVIS layout.
Weights have a scale for each output channel, inputs one for the whole tensor, found at every call.
torchao's layers are timed where it is installed. --quick: small shapes.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from engine_agreement import overlap, tracked
from torch import Tensor, nn
from torch.nn import functional as F
from trials import Trial, Way, difference, milliseconds, run
from trials_of_encoder import QUICK, Shapes

from tempomask import load
from tempomask.engine import accelerate
from tempomask.engine.packed import Activation, PackedLinear, can_pack
from tempomask.files import write_json
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter

# Tokens that are turned into int8 at once, which then lie in the cache.
SLAB = 1024
LEVELS = 255
# Blocks of the third stage of SAM 2.1-L.
BLOCKS = 36
PRODUCT = "int8 product alone"


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights (out, in) and the scale (out,) of each output channel."""
    scale = weight.abs().amax(dim=1) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


class Int8Linear(nn.Module):
    """As `PackedLinear`, with an int8 product of oneDNN; bfloat16 goes in and comes out."""

    def __init__(self, layer: nn.Linear, activation: Activation = "none") -> None:
        super().__init__()
        weight, self.scale = quantised(layer.weight.detach().float())
        self.packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        self.bias = None if layer.bias is None else layer.bias.detach().float()
        self.activation = (activation, [], "none" if activation == "gelu" else "")

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features): (..., out_features), bfloat16."""
        tokens = x.flatten(0, -2)
        scale, zero = input_scale(tokens)
        parts = [
            self.product(levels(slab, scale, zero), scale, zero) for slab in tokens.split(SLAB)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unflatten(0, x.shape[:-1])

    def product(self, x: Tensor, scale: float, zero: int) -> Tensor:
        """x (tokens, in_features) uint8: (tokens, out_features)."""
        weights = (self.packed, self.scale, self.zeros, self.bias)
        return torch.ops.onednn.qlinear_pointwise(
            x, scale, zero, *weights, 1.0, 0, torch.bfloat16, *self.activation
        )


def input_scale(x: Tensor) -> tuple[float, int]:
    """Scale and zero point that spread the values of x over uint8."""
    low, high = (bound.item() for bound in x.aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / LEVELS, 1e-12)
    return scale, round(-low / scale)


def levels(x: Tensor, scale: float, zero: int) -> Tensor:
    """x as uint8, by the fastest kernel that torch has for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8).int_repr()


def other_ways(layer: nn.Linear, gelu: bool, x: Tensor) -> dict[str, Way]:
    """What else torch offers for int8 on a CPU."""
    weight, scale = quantised(layer.weight.detach())
    columns, scale16 = weight.t(), scale.bfloat16()
    bias16 = layer.bias.detach().bfloat16()
    activate = F.gelu if gelu else nn.Identity()

    def int_mm() -> Tensor:
        step = x.abs().amax().float() / 127
        whole = torch._int_mm((x / step).round_().to(torch.int8), columns)
        return activate((whole * (scale * step)).add_(layer.bias).bfloat16())

    def weight_only() -> Tensor:
        return activate(torch.ops.aten._weight_int8pack_mm(x, weight, scale16) + bias16)

    ways: dict[str, Way] = {"torch._int_mm": int_mm, "int8 weights, bfloat16 input": weight_only}
    torch.backends.quantized.engine = "onednn"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8
        )
    ways["torch.ao dynamic (oneDNN)"] = lambda: activate(dynamic(x.float())).bfloat16()
    return ways | torchao_ways(layer, activate, x)


def torchao_ways(layer: nn.Linear, activate: Any, x: Tensor) -> dict[str, Way]:
    """torchao's int8 layers; none where it is not installed."""
    try:
        from torchao import quantization
    except ImportError:
        return {}
    ways: dict[str, Way] = {}
    for name in ("Int8DynamicActivationInt8WeightConfig", "Int8WeightOnlyConfig"):
        copy = nn.Linear(layer.in_features, layer.out_features)
        copy.load_state_dict(layer.state_dict())
        model = nn.Sequential(copy.bfloat16())
        quantization.quantize_(model, getattr(quantization, name)())
        ways[f"torchao {name}"] = lambda model=model: activate(model(x))
    return ways


def layer_trials(shapes: Shapes) -> Iterator[Trial]:
    """The four linear layers of a block."""
    dim, tokens = shapes.dim, shapes.side**2
    sizes = {"query, key, value": (dim, 3 * dim), "output": (dim, dim)}
    sizes |= {"expand, GELU": (dim, 4 * dim), "contract": (4 * dim, dim)}
    for name, (inner, outer) in sizes.items():
        layer, gelu = nn.Linear(inner, outer).requires_grad_(False), "GELU" in name
        x = torch.randn(tokens, inner, dtype=torch.bfloat16)
        activation: Activation = "gelu" if gelu else "none"
        packed, int8 = PackedLinear(layer, activation), Int8Linear(layer, activation)
        exact = layer(x.float())
        yield Trial(
            name,
            f"{tokens} tokens, {inner} channels to {outer}",
            {
                "bfloat16": lambda packed=packed, x=x: packed(x),
                "int8 (oneDNN)": lambda int8=int8, x=x: int8(x),
                **other_ways(layer, gelu, x),
            },
            {PRODUCT: _product(int8, x)},
            exact=F.gelu(exact) if gelu else exact,
        )


def _product(layer: Int8Linear, x: Tensor) -> Way:
    scale, zero = input_scale(x)
    whole = levels(x, scale, zero)
    return lambda: layer.product(whole, scale, zero)


def encoder(name: str) -> dict[str, Any]:
    """The whole encoder, random weights: milliseconds, and differences from float32."""
    config = segmenter_config(name)
    image = torch.randn(1, 3, config.image_size, config.image_size)
    calls, found = {}, {}
    with torch.inference_mode():
        torch.manual_seed(0)
        plain = Segmenter(config).eval()
        exact = plain.encode(image).features
        state = plain.state_dict()
        for kind, layer in (("bfloat16", PackedLinear), ("int8", Int8Linear)):
            network = Segmenter(config)
            network.load_state_dict(state)
            with patch("tempomask.engine.packed.PackedLinear", layer):
                network = accelerate(network, torch.bfloat16)
            calls[kind] = _encoding(network, image)
            found[kind] = calls[kind]()
        spent = milliseconds(calls)
    return {
        "model": name,
        "milliseconds": {kind: round(value, 1) for kind, value in spent.items()},
        "speedup": round(spent["bfloat16"] / spent["int8"], 2),
        "difference": {k: float(f"{difference(v, exact):.2g}") for k, v in found.items()},
    }


def _encoding(network: Segmenter, image: Tensor) -> Way:
    def encode() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network.encode(image).features

    return encode


def masks(root: Path, frames: int) -> dict[str, Any]:
    """Mean IoU of nano's masks with those of the plain float32 network, all layers exchanged."""
    sequences = sorted(p.name for p in (root / "JPEGImages" / "480p").iterdir() if p.is_dir())
    plain = load("nano", engine="plain", dtype="float32", device="cpu")
    wanted = {s: tracked(plain, root, s, frames) for s in sequences}
    ious = {}
    for kind, layer in (("bfloat16", PackedLinear), ("int8", Int8Linear)):
        with patch("tempomask.engine.packed.PackedLinear", layer):
            model = load("nano", dtype="bfloat16", device="cpu")
        rows = {s: round(overlap(tracked(model, root, s, frames), wanted[s]), 4) for s in sequences}
        ious[kind] = {"mean": round(float(np.mean(list(rows.values()))), 4), "iou": rows}
        print(kind, ious[kind], flush=True)
    return {"model": "nano", "frames": frames, **ious}


def times(quick: bool) -> dict[str, Any]:
    """Layers, the encoder, and what the encoder would gain if turning into int8 cost nothing."""
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    if find_spec("torchao"):
        report["torchao"] = version("torchao")
    layers = {trial.name: run(trial) for trial in layer_trials(QUICK if quick else Shapes())}
    report["layers"] = layers
    if quick:
        return report
    report["encoder"] = encoder("sam2.1-large")
    rows = [layer["milliseconds"] for layer in layers.values()]
    saved = BLOCKS * sum(row["bfloat16"] - row[PRODUCT] for row in rows)
    whole = report["encoder"]["milliseconds"]["bfloat16"]
    report["free_conversion"] = {
        "saved_milliseconds": round(saved, 1),
        "speedup": round(whole / (whole - saved), 2),
    }
    print(report["encoder"], report["free_conversion"], flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--masks", type=Path, help="a folder in the DAVIS layout")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not can_pack(nn.Linear(8, 8), torch.bfloat16):
        raise SystemExit("this machine has no bfloat16 matrix units to compare with")
    torch.manual_seed(0)
    root, frames = arguments.masks, arguments.frames
    report = masks(root, frames) if root else times(arguments.quick)
    if arguments.out:
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
