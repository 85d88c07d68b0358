"""Each parameter goes where the rule says, with its reason, once; what is plainly wrong is refused."""

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.optim import Muon, Scion, param_groups
from batchwright.tasks.char_gpt import CharGPT


class Conv1D(nn.Module):
    """As transformers' GPT-2 has it: a linear layer with its weight as inputs by outputs."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class GPT2(nn.Module):
    """Names and ties of a transformers model."""

    def __init__(self):
        super().__init__()
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(20, 8), "wpe": nn.Embedding(6, 8)})
        self.transformer["h"] = nn.ModuleList([nn.ModuleDict({"ln_1": RMSNorm(8), "c_attn": Conv1D(24, 8)})])
        self.lm_head = nn.Linear(8, 20, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.patch_embed = nn.Conv2d(3, 8, 4)
        self.attn = nn.MultiheadAttention(8, 2)
        self.gamma = nn.Parameter(torch.ones(8))
        self.classifier = nn.Linear(8, 4)
        self.pooler = nn.Linear(8, 8)
        self.register_parameter("table", nn.Parameter(torch.zeros(9, 2)))


def places(model, optimizer="muon", **options):
    return {each.name: (each.goes_to, each.kind) for each in param_groups(model, optimizer, **options).assignments}


def test_a_transformer_of_our_own():
    found = places(CharGPT(num_symbols=11, context=6, width=8, num_heads=2, num_layers=1))
    assert found["tokens.weight"] == found["positions.weight"] == ("adamw", "embedding")
    assert found["blocks.0.qkv.weight"] == found["blocks.0.mlp.2.weight"] == ("muon", "matrix")
    assert found["blocks.0.norm1.weight"] == found["blocks.0.qkv.bias"] == ("adamw", "vector")
    assert found["head.weight"] == ("adamw", "head")


def test_tied_weights_are_there_once_and_stay_an_embedding():
    groups = param_groups(GPT2())
    found = {each.name: each for each in groups.assignments}
    assert found["transformer.wte.weight"].kind == "embedding"
    assert "tied to lm_head.weight" in found["transformer.wte.weight"].reason
    assert "lm_head.weight" not in found
    assert found["transformer.h.0.c_attn.weight"].goes_to == "muon"
    assert found["transformer.h.0.ln_1.weight"].kind == "vector"
    everything = [parameter for group in groups for parameter in group["params"]]
    assert len({id(each) for each in everything}) == len(everything) == len(list(GPT2().parameters()))


def test_a_vision_transformer():
    found = places(ViT())
    assert found["cls_token"] == found["pos_embed"] == ("adamw", "embedding")
    assert found["patch_embed.weight"] == ("muon", "convolution")
    assert found["attn.in_proj_weight"] == found["attn.out_proj.weight"] == ("muon", "matrix")
    assert found["gamma"] == ("adamw", "vector")
    # The head is not the last layer, and has the name of one; a table of no known layer is not guessed at.
    assert found["classifier.weight"] == ("adamw", "head")
    assert found["pooler.weight"] == ("muon", "matrix")
    assert found["table"] == ("adamw", "unknown")


def test_convolutions_go_to_muon_but_not_those_in_groups():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(),
        nn.Linear(16, 16), nn.LSTM(16, 4), nn.Linear(16, 1), nn.Linear(16, 3),
    )  # fmt: skip
    found = places(model)
    assert found["0.weight"] == found["3.weight"] == ("muon", "convolution")
    assert found["2.weight"] == ("adamw", "grouped")
    assert found["6.weight_ih_l0"] == ("adamw", "recurrent")
    assert found["7.weight"] == ("adamw", "row")
    assert found["8.weight"] == ("adamw", "head")
    groups = param_groups(model)
    assert "a kernel, as a matrix 8x27" in groups.table()


def test_a_single_layer_is_no_head():
    assert places(nn.Linear(4, 3)) == {"weight": ("muon", "matrix"), "bias": ("adamw", "vector")}


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    assert "0.weight" not in places(model)


def test_overrides_say_so_in_the_table_and_the_last_counts():
    model = CharGPT(num_symbols=11, context=6, width=8, num_heads=2, num_layers=1)
    groups = param_groups(model, overrides={"blocks.*.weight": "adamw", "*.qkv.weight": "muon", "head.weight": "muon"})
    found = {each.name: each for each in groups.assignments}
    assert found["blocks.0.project.weight"].goes_to == "adamw"
    assert found["blocks.0.qkv.weight"].goes_to == found["head.weight"].goes_to == "muon"
    assert "asked for by 'head.weight'; it is the head" in groups.table()
    assert sum(groups.counts().values()) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        ({"tokens.weight": "muon"}, r"tokens\.weight must not go to muon, got shape \(11, 8\): it is an embedding"),
        ({"*norm.weight": "muon"}, "norm.weight must not go to muon.*a vector or scalar"),
        (
            {"*.nothing": "muon"},
            r"overrides must fit a trainable parameter, got '\*\.nothing'; there are tokens.weight",
        ),
        ({"head.weight": "sgd"}, "place of 'head.weight' must be one of adamw, muon, got 'sgd'"),
    ],
)
def test_what_is_plainly_wrong_is_refused(overrides, rule):
    model = CharGPT(num_symbols=11, context=6, width=8, num_heads=2, num_layers=1)
    with pytest.raises(InputError, match=rule):
        param_groups(model, overrides=overrides)


def test_the_tied_name_of_an_embedding_is_no_way_around():
    with pytest.raises(InputError, match=r"must not go to muon.*an embedding, tied to lm_head"):
        param_groups(GPT2(), overrides={"lm_head.weight": "muon"})


def test_scion_has_sign_spectral_sign_with_radii_by_kind():
    radii = {"embedding": 3000.0, "head": 3000.0, "default": 50.0}
    groups = param_groups(GPT2(), "scion", radii=radii)
    settings = {(group["norm"], group["radius"]) for group in groups}
    assert settings == {("sign", 3000.0), ("spectral", 50.0), ("sign", 50.0)}
    Scion(groups)
    with pytest.raises(InputError, match="must not go to spectral"):
        param_groups(GPT2(), "scion", overrides={"*wpe*": "spectral"})


def test_the_groups_make_an_optimizer_of_every_parameter():
    model = ViT()
    optimizer = Muon(param_groups(model, adamw_lr=0.5, decay_vectors=True))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 0.5, 0.5]
    assert optimizer.param_groups[2]["weight_decay"] == 0.01
