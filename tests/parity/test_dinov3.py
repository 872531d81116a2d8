"""DINOv3 through transformers: the same numbers as its own network, from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.dinov3 import DINOV3_SIZES, DINOv3, DINOv3Config, transformers_config
from tempomask.models.encoder import always_on_blocks
from tempomask.routing.budget import FixedBudget, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.routing.static import StaticPlan
from tempomask.weights.dinov3 import DINOV3_MODELS, load_dinov3, locate

transformers = pytest.importorskip("transformers")

TINY = {
    "plain": DINOv3Config("tiny", 32, 2, 3, 64),
    "gated": DINOv3Config("tiny", 32, 4, 2, 40, gated=True),
    "no biases": DINOv3Config("tiny", 32, 2, 2, 40, gated=True, query_value_bias=False),
}


@pytest.fixture(params=TINY)
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> DINOv3Config:
    monkeypatch.setitem(DINOV3_SIZES, "tiny", TINY[request.param])
    return TINY[request.param]


@pytest.fixture
def theirs(config: DINOv3Config) -> Any:
    """Their network with weights that all matter."""
    torch.manual_seed(0)
    network = transformers.DINOv3ViTModel(transformers_config(config)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def official_state(config: DINOv3Config, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their state as the official files have it: fused projections, masked biases, periods."""
    renames = {
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "attention.o_proj": "attn.proj",
        "mlp.gate_proj": "mlp.w1",
        "mlp.up_proj": "mlp.w2" if config.gated else "mlp.fc1",
        "mlp.down_proj": "mlp.w3" if config.gated else "mlp.fc2",
        "embeddings.register_tokens": "storage_tokens",
        "embeddings.patch_embeddings": "patch_embed.proj",
        "embeddings.": "",
    }
    official = {"rope_embed.periods": torch.ones(4), "local_cls_norm.weight": torch.ones(4)}
    for key, tensor in state.items():
        name = key.replace("model.layer.", "blocks.")
        for old, new in renames.items():
            name = name.replace(old, new)
        if ".q_proj." in name:
            rest = [key.replace("q_proj", other) for other in ("k_proj", "v_proj")]
            parts = [tensor, *(state.get(r, torch.zeros_like(tensor)) for r in rest)]
            official[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
            if name.endswith("bias"):
                mask = torch.ones(3 * len(tensor))
                official[name.replace("attention.q_proj.bias", "attn.qkv.bias_mask")] = mask
        elif "_proj." not in name or ".attn.proj" in name:
            official[name] = tensor
    return official


def transformers_4_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace("model.layer.", "layer."): tensor for key, tensor in state.items()}


@pytest.mark.parametrize("kind", ["transformers 5", "transformers 4", "official"])
@pytest.mark.parametrize("size", [(64, 64), (48, 160)])
def test_features_are_theirs(
    config: DINOv3Config, theirs: Any, kind: str, size: tuple[int, int], tmp_path: Path
) -> None:
    """Wide and narrow grids: five prefix tokens fit into one row of ten, not into one of four."""
    path = tmp_path / "weights.pth"
    if kind == "transformers 5":
        theirs.save_pretrained(tmp_path)
        path = tmp_path
    elif kind == "transformers 4":
        torch.save(transformers_4_state(theirs.state_dict()), path)
    else:
        torch.save({"model": official_state(config, theirs.state_dict())}, path)
    ours = load_dinov3("tiny", path)
    assert not ours.training and ours.num_blocks == config.depth
    image = torch.randn(2, 3, *size)
    with torch.inference_mode():
        features = ours(image).features[0]
        tokens = theirs(image).last_hidden_state[:, 1 + config.registers :]
    expected = tokens.transpose(1, 2).unflatten(2, (size[0] // 16, size[1] // 16))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_training_does_not_move_positions(config: DINOv3Config) -> None:
    network = DINOv3(config).train()
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(network(image).features[0], network(image).features[0])


def test_the_blocks_that_always_run_and_a_router(config: DINOv3Config) -> None:
    """K is derived from the stack; the router of RDS needs nothing but the encoder."""
    network = DINOv3(config).eval()
    assert always_on_blocks(network) == tuple(sorted({0, config.depth - 1}))
    router = PredictiveRouter(RouterConfig.for_encoder(network))
    policy = RecurrentPolicy(router, FixedBudget(2 / config.depth), TopK())
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        full = network(image, policy, None)
        routed = network(image, policy, torch.randn(1, 1, 40, 40))
        static = network(image, StaticPlan(always_on_blocks(network), network))
    assert full.blocks.all()
    kept = routed.blocks.reshape(-1).nonzero().flatten().tolist()
    assert tuple(kept) == always_on_blocks(network)
    torch.testing.assert_close(routed.features[0], static.features[0])
    assert config.depth == 2 or not torch.allclose(routed.features[0], full.features[0])


def test_named_sizes() -> None:
    """Parameters in millions as published, counted without making the tensors."""
    assert list(DINOV3_MODELS) == list(DINOV3_SIZES)
    for name in ("dinov3-vits16", "dinov3-vits16plus", "dinov3-vitb16", "dinov3-vitl16"):
        with torch.device("meta"):
            count = sum(x.numel() for x in DINOv3(DINOV3_SIZES[name]).parameters()) / 1e6
        assert count == pytest.approx(DINOV3_MODELS[name].parameters, rel=0.01), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.weight"), "1 missing: norm.weight"),
        (lambda s: s.update({"head.weight": torch.ones(2)}), "1 unexpected"),
        (lambda s: s.update({"norm.weight": torch.ones(2)}), "of another shape: norm.weight"),
        (lambda s: s.clear(), "not a checkpoint of DINOv3"),
    ],
)
def test_files_that_do_not_fit(theirs: Any, tmp_path: Path, change: Any, message: str) -> None:
    state = theirs.state_dict()
    change(state)
    torch.save(state or {"other": torch.ones(1)}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message):
        load_dinov3("tiny", tmp_path / "weights.pth")


def test_what_a_file_holds_is_told_from_its_tensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = TINY["plain"]
    monkeypatch.setitem(DINOV3_SIZES, "tiny", config)
    network = transformers.DINOv3ViTModel(transformers_config(config))
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    assert load_dinov3(None, tmp_path / "weights.safetensors").config == config
    monkeypatch.delitem(DINOV3_SIZES, "tiny")
    with pytest.raises(InputError, match="3 blocks of 32 channels"):
        load_dinov3(None, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="dinov3-vits16"):
        load_dinov3("dinov3-vits16", tmp_path / "weights.safetensors")


def test_weights_are_looked_for_here_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEMPOMASK_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match="licence .*dinov3-vitb16"):
        locate("dinov3-vitb16")
    with pytest.raises(InputError, match="'dinov3-vitb8'"):
        locate("dinov3-vitb8")
    path = tmp_path / "dinov3_vitb16_pretrain_lvd1689m-73cec8be.pth"
    path.write_bytes(b"")
    assert locate("dinov3-vitb16") == path
    with pytest.raises(InputError, match="name a model"):
        load_dinov3()


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"'tempomask\[dinov3\]'"):
        DINOv3(TINY["plain"])


def test_configurations_agree_with_their_defaults() -> None:
    """The smallest size is what transformers builds by default, but for the registers."""
    ours = json.loads(transformers_config(DINOV3_SIZES["dinov3-vits16"]).to_json_string())
    default = json.loads(transformers.DINOv3ViTConfig(num_register_tokens=4).to_json_string())
    assert ours == default
