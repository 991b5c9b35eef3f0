"""``route`` and ``moe`` say what transformers' own routers and experts compute."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeTopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts, GptOssTopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.olmoe.modeling_olmoe import OlmoeTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from zif.contract.errors import UnsupportedModel
from zif.contract.experts import ClampedGate, RouteSpec
from zif.contract.ops.moe import moe, route
from zif.contract.weights import PackedWeight

TOKENS, HIDDEN, EXPERTS = 64, 24, 16
DEEPSEEK = {"n_group": 4, "topk_group": 2, "routed_scaling_factor": 2.5}

STYLES: dict[str, tuple[Any, dict[str, Any], RouteSpec]] = {
    "mixtral": (MixtralTopKRouter, {}, RouteSpec(EXPERTS, 4, normalize=True)),
    "qwen2": (Qwen2MoeTopKRouter, {"norm_topk_prob": False}, RouteSpec(EXPERTS, 4)),
    "qwen3": (Qwen3MoeTopKRouter, {"norm_topk_prob": True}, RouteSpec(EXPERTS, 4, normalize=True)),
    "olmoe": (OlmoeTopKRouter, {"norm_topk_prob": False}, RouteSpec(EXPERTS, 4)),
    "deepseek-v2-lite": (DeepseekV2TopkRouter, DEEPSEEK | {"topk_method": "greedy"}, RouteSpec(EXPERTS, 4, scale=2.5)),
    "deepseek-v2": (
        DeepseekV2TopkRouter,
        DEEPSEEK | {"topk_method": "group_limited_greedy"},
        RouteSpec(EXPERTS, 4, scale=2.5, groups=4, top_groups=2),
    ),
    "deepseek-v3": (
        DeepseekV3TopkRouter,
        DEEPSEEK | {"norm_topk_prob": True},
        RouteSpec(EXPERTS, 4, "sigmoid", True, 2.5, 4, 2, "top2"),
    ),
    "kimi-k2": (
        DeepseekV3TopkRouter,
        DEEPSEEK | {"norm_topk_prob": True, "n_group": 1, "topk_group": 1},
        RouteSpec(EXPERTS, 4, "sigmoid", True, 2.5),
    ),
    "glm4": (
        Glm4MoeTopkRouter,
        DEEPSEEK | {"norm_topk_prob": False},
        RouteSpec(EXPERTS, 4, "sigmoid", False, 2.5, 4, 2, "top2"),
    ),
    "gpt-oss": (GptOssTopKRouter, {}, RouteSpec(EXPERTS, 4, normalize=True)),
}


@pytest.mark.parametrize("style", STYLES)
def test_routes_are_those_of_transformers(style: str) -> None:
    kind, facts, spec = STYLES[style]
    torch.manual_seed(3)
    sizes = {"num_local_experts": EXPERTS, "num_experts": EXPERTS, "hidden_size": HIDDEN, "num_experts_per_tok": 4}
    router = kind(SimpleNamespace(**sizes, **facts))
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    bias = getattr(router, "e_score_correction_bias", None)
    if bias is not None:
        bias.copy_(torch.randn(EXPERTS) * 0.3)
    with torch.no_grad():
        logits, weights, experts = router(torch.randn(TOKENS, HIDDEN))
    found, chosen = route(logits.double().numpy(), spec, None if bias is None else bias.double().numpy())

    # transformers leaves the order of a token's experts open
    def ordered(weights: Any, experts: Any) -> Any:
        order = np.argsort(experts, axis=-1)
        return np.take_along_axis(experts, order, -1), np.take_along_axis(weights, order, -1)

    (wanted, scores), (mine, own) = ordered(weights.numpy(), experts.numpy()), ordered(found, chosen)
    np.testing.assert_array_equal(mine, wanted)
    np.testing.assert_allclose(own, scores, rtol=2e-6)
    assert len({tuple(row) for row in wanted.tolist()}) > 10


def test_gpt_oss_s_experts_are_biased_and_clamped() -> None:
    torch.manual_seed(4)
    sizes = {"intermediate_size": 20, "num_local_experts": 5, "hidden_size": HIDDEN}
    experts = GptOssExperts(
        SimpleNamespace(**sizes, swiglu_alpha=1.702, swiglu_limit=0.7, _experts_implementation="eager")
    ).double()
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, weights = torch.randn(TOKENS, HIDDEN).double(), torch.rand(TOKENS, 2).double()
    chosen = torch.stack([torch.randperm(5)[:2] for _ in range(TOKENS)])
    with torch.no_grad():
        wanted = experts(x, chosen, weights).numpy()
    stored = {name: value.detach().numpy() for name, value in experts.named_parameters()}
    both, bias = stored["gate_up_proj"].swapaxes(1, 2), stored["gate_up_proj_bias"]
    arrays = {
        "gate_up": np.concatenate([both[:, ::2], both[:, 1::2]], axis=1),
        "gate_up_bias": np.concatenate([bias[:, ::2], bias[:, 1::2]], axis=1),
        "down": stored["down_proj"].swapaxes(1, 2),
        "down_bias": stored["down_proj_bias"],
    }
    w = PackedWeight(arrays, "dense", (5, 20, HIDDEN))
    found = moe(x.numpy(), weights.numpy(), chosen.numpy(), w, "silu", clamped=ClampedGate(0.7, 1.702, 1.0))
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"scoring": "sparsemixer"}, "scoring is 'sparsemixer', not softmax or sigmoid"),
        ({"group_score": "mean"}, "group_score is 'mean', not max or top2"),
        ({"groups": 3}, "16 experts do not make 3 groups"),
        ({"groups": 4, "top_groups": 5}, "top_groups is 5 of 4 groups"),
        ({"groups": 16, "top_groups": 8, "group_score": "top2"}, "16 groups have one expert each"),
        ({"top_k": 17}, "top_k is 17, and there are 16"),
        ({"top_k": 9, "groups": 4, "top_groups": 2}, "top_k is 9, and there are 8 to choose from"),
    ],
)
def test_styles_that_are_none_are_refused_by_field(facts: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        RouteSpec(**{"experts": EXPERTS, "top_k": 4, **facts})
