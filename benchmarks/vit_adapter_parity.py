"""Our ViT-Adapter beside that of DVIS++'s release: the same random weights, the same images.

    git clone https://github.com/zhang-tao-whu/DVIS_Plus
    python -m benchmarks.vit_adapter_parity --release DVIS_Plus --out vit_adapter_parity.json

The release's module is imported from the checkout as it is, in its true size, and its weights are
read by our key table. What it needs of timm and detectron2 only to be built is stood in for, and
its attention falls back to its own PyTorch form, as on every machine without its CUDA kernel.
"""

from __future__ import annotations

import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import finish, parser
from tempomask.models.instances.config import ViTAdapterConfig
from tempomask.models.instances.vit_adapter import ViTAdapter
from tempomask.weights.mask2former import DETECTRON2_VIT_ADAPTER, published

# Images (height, width): a frame of 480p, an upright one, a square.
SIZES = ((480, 864), (640, 384), (512, 512))


class _Registry:
    """Registers nothing."""

    def register(self) -> Any:
        return lambda made: made


def _stand_ins(root: Path) -> None:
    """The packages around the module, without running their `__init__`, and what is not here."""
    contents: dict[str, dict[str, Any]] = {
        "MultiScaleDeformableAttention": {},
        "detectron2": {},
        "detectron2.modeling": {
            "BACKBONE_REGISTRY": _Registry(),
            "Backbone": nn.Module,
            "ShapeSpec": object,
        },
        "timm": {},
        "timm.models": {},
        "timm.models.layers": {"trunc_normal_": nn.init.trunc_normal_, "DropPath": nn.Identity},
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        sys.modules.setdefault(name, module)
    package = root / "DVIS_DAQ" / "mask2former"
    for name in ("", "modeling", "modeling.pixel_decoder"):
        module = types.ModuleType(f"mask2former.{name}".rstrip("."))
        module.__path__ = [str(package.joinpath(*name.split(".")))]
        sys.modules.setdefault(module.__name__, module)


def released(root: Path) -> nn.Module:
    """The release's ViT-L with its adapter, randomly weighted so that every tensor counts."""
    if not (root / "DVIS_DAQ" / "mask2former").is_dir():
        raise SystemExit(f"{root} is no checkout of DVIS_Plus: it has no DVIS_DAQ/mask2former")
    _stand_ins(root)
    theirs: Any = import_module("mask2former.modeling.backbones_vitAdapter.adapter")
    made = theirs.DinoV2ViTAdapter(**theirs.get_adapter_args("vitl")).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, x in [*made.named_parameters(), *made.named_buffers()]:
            if name.endswith("running_var"):
                x.copy_(0.5 + torch.rand(x.shape, generator=generator))
            elif x.is_floating_point():
                scale = 0.3 if x.ndim < 2 else x[0].numel() ** -0.5
                one = float(x.ndim < 2 and name.endswith(("weight", "gamma")))
                x.copy_(one + scale * torch.randn(x.shape, generator=generator))
    return made


def ours(theirs: nn.Module) -> ViTAdapter:
    """The same weights under our names, by the table that reads whole checkpoints."""
    made = ViTAdapter(ViTAdapterConfig()).eval()
    state: dict[str, Tensor] = {f"backbone.{k}": x for k, x in theirs.state_dict().items()}
    converted = DETECTRON2_VIT_ADAPTER.to_ours(published(state))
    prefix = "network.backbone."
    made.load_state_dict({k.removeprefix(prefix): x for k, x in converted.items()})
    return made


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--release", type=Path, required=True, help="a checkout of DVIS_Plus")
    given = command.parse_args()
    theirs = released(given.release)
    network = ours(theirs)
    rows = []
    for height, width in SIZES:
        image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            pairs = zip(network(image), theirs(image), strict=True)
            scaled = [float((a - b).abs().max() / b.std()) for a, b in pairs]
        rows.append({"size": [height, width], "difference_over_deviation": scaled})
        print(rows[-1], flush=True)
    parameters = sum(x.numel() for x in network.parameters())
    finish({"parameters": parameters, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
