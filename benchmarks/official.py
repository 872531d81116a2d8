"""The releases of SAM 2 and EfficientTAM as they are, from a checkout, without what they install.

    git clone https://github.com/facebookresearch/sam2
    git clone https://github.com/yformer/EfficientTAM

Their configurations are built here by their own rule, `_target_` and its arguments; hydra and
iopath, which only find files, are left out. Nothing of the releases is copied or changed.
"""

from __future__ import annotations

import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

# Configuration file and video predictor, by the start of our model's name.
SAM2 = ("sam2/configs/sam2.1/sam2.1_hiera_{}.yaml", "sam2.sam2_video_predictor.SAM2VideoPredictor")
EFFICIENTTAM = (
    "efficient_track_anything/configs/efficienttam/efficienttam_{}.yaml",
    "efficient_track_anything.efficienttam_video_predictor.EfficientTAMVideoPredictor",
)
SIZES = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}


def _stand_ins() -> None:
    """Modules in place of hydra and iopath, of which only importing is needed."""
    initialised = types.SimpleNamespace(is_initialized=lambda: True)
    contents: dict[str, dict[str, Any]] = {
        "hydra": {"initialize_config_module": lambda *_args, **_named: None},
        "hydra.core": {},
        "hydra.core.global_hydra": {
            "GlobalHydra": types.SimpleNamespace(instance=lambda: initialised)
        },
        "iopath": {},
        "iopath.common": {},
        "iopath.common.file_io": {"g_pathmgr": None},
    }
    for name, values in contents.items():
        module = types.ModuleType(name)
        vars(module).update(values)
        sys.modules.setdefault(name, module)


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _built(node: Any) -> Any:
    """A node of a configuration: what `_target_` names, called with the rest."""
    if isinstance(node, list):
        return [_built(one) for one in node]
    if isinstance(node, dict):
        values = {key: _built(value) for key, value in node.items() if key != "_target_"}
        return _named(node["_target_"])(**values) if "_target_" in node else values
    if isinstance(node, str):
        # YAML 1.1 reads 1e-6 as text, the releases' reader as a number.
        try:
            return float(node)
        except ValueError:
            return node
    return node


def official_predictor(checkout: Path, model: str, weights: dict[str, Any]) -> Any:
    """The release's video predictor of one of our models, with weights under its own names.

    Args:
        checkout: Of the release.
        model: sam2.1-NAME or efficienttam-NAME.
        weights: As `tempomask.weights.to_official` names them.
    """
    family, _, name = model.partition("-")
    size = SIZES.get(name) if family == "sam2.1" else name.replace("512", "512x512")
    config, predictor = SAM2 if family == "sam2.1" else EFFICIENTTAM
    path = checkout / config.format(size and size.replace("-", "_"))
    if not path.is_file():
        raise SystemExit(f"{checkout} has no {path.name}, the release's configuration of {model}")
    _stand_ins()
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    node = yaml.safe_load(path.read_text())["model"]
    # As `build_sam2_video_predictor` and `build_efficienttam_video_predictor` do for their users on
    # a CPU.
    node |= {"_target_": predictor, "binarize_mask_from_pts_for_mem_enc": True}
    node["compile_image_encoder"] = False
    node["sam_mask_decoder_extra_args"] = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    made = _built(node)
    made.load_state_dict({name: value.clone() for name, value in weights.items()})
    return made.eval()


def tracked(predictor: Any, folder: Path, masks: list[Any]) -> Any:
    """Low-resolution logits (N, h, w) of each frame, as the release tracks masks of frame 0.

    Args:
        predictor: From `official_predictor`.
        folder: JPEG files named by number.
        masks: bool (H, W), one an object.
    """
    state = predictor.init_state(str(folder))
    for number, mask in enumerate(masks, start=1):
        predictor.add_new_mask(state, frame_idx=0, obj_id=number, mask=torch.from_numpy(mask))
    for index, _ids, _masks in predictor.propagate_in_video(state):
        kind = "cond_frame_outputs" if index == 0 else "non_cond_frame_outputs"
        outputs = [one[kind][index] for one in state["output_dict_per_obj"].values()]
        yield torch.cat([one["pred_masks"][:, 0].float() for one in outputs])
