"""The three models: their structure as docs/method.md gives it, token modes, padding, and how they start."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from handcraft.config import CMLPeConfig, MambaSLConfig, TransformerSLConfig
from handcraft.errors import ConfigError
from handcraft.kernels import CMLPeParams, dct_linear, mamba_block, philox
from handcraft.models import CMLPe, MambaSL, TransformerSL, build, kind_of
from handcraft.models.cmlpe import twin_view

T, D, CLASSES = 12, 10, 5
CONFIGS = {
    "transformer": TransformerSLConfig(
        classes=CLASSES, dim=D, frames=T, width=16, layers=2, heads=2, mlp=24, head=32, dropout=0.2
    ),
    "mamba": MambaSLConfig(classes=CLASSES, dim=D, frames=T, width=16, layers=2, state=4, head=32),
}


def shaken(config, seed=0):
    """The model with weights of O(1/sqrt(fan-in)) everywhere, so that no part of it is silent; evaluation mode."""
    model = build(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5
            parameter.copy_(parameter + 0.3 * noise if name.endswith("A_log") else noise + ("norm" in name))
    return model


def window(batch=4, seed=1):
    return torch.randn(batch, T, D, generator=torch.Generator().manual_seed(seed))


def attention(x, layer, heads, allowed):
    """Multi-head self-attention written out. x (B,L,H), allowed (B,L) keys."""
    batch, length, width = x.shape
    q, k, v = (
        part.view(batch, length, heads, -1).transpose(1, 2)
        for part in F.linear(x, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
    )
    weight = q @ k.transpose(-1, -2) / (width // heads) ** 0.5
    weight = weight.masked_fill(~allowed[:, None, None], -torch.inf).softmax(-1)
    return layer.out_proj((weight @ v).transpose(1, 2).reshape(batch, length, width))


def head(x, module):
    return F.linear(torch.tanh(module.hidden(x)), module.out.weight, module.out.bias)


@pytest.mark.parametrize("tokens", ["dct", "frames"])
@torch.no_grad()
def test_transformer_is_what_the_design_says(tokens):
    model = shaken(replace(CONFIGS["transformer"], tokens=tokens))
    x, lengths = window(), torch.tensor([12, 7, 1, 4])
    part = model.embedding
    transform = {"dct": "dct", "frames": "none"}[tokens]
    z = dct_linear(x, part.weight, None, cls=part.cls, position=part.position, cls_at="first", transform=transform)
    allowed = torch.ones(4, T + 1, dtype=torch.bool)
    if tokens == "frames":
        allowed[:, 1:] = torch.arange(T) < lengths[:, None]
    for layer in model.layers:
        z = z + attention(layer.norm1(z), layer.self_attn, 2, allowed)
        z = z + layer.linear2(F.gelu(layer.linear1(layer.norm2(z))))
    torch.testing.assert_close(model(x, lengths), head(model.norm(z[:, 0]), model.head), rtol=1e-4, atol=1e-5)
    assert "embedding.bias" not in model.state_dict()


@pytest.mark.parametrize("tokens", ["dct", "frames"])
@torch.no_grad()
def test_mamba_is_what_the_design_says(tokens):
    model = shaken(replace(CONFIGS["mamba"], tokens=tokens))
    x, lengths = window(), torch.tensor([12, 7, 1, 4])
    part = model.embedding
    expected = []
    for b in range(4):  # a clip by itself, cut to its length: no padding anywhere
        clip = x[b : b + 1] if tokens == "dct" else x[b : b + 1, : lengths[b]]
        transform = {"dct": "dct", "frames": "none"}[tokens]
        z = dct_linear(clip, part.weight, part.bias, cls=part.cls, cls_at="last", transform=transform)
        for norm, block in zip(model.norms, model.blocks, strict=True):
            scaled = z / (z.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm.weight
            z = z + mamba_block(scaled, block.params())
        last = z[:, -1]
        last = last / (last.square().mean(-1, keepdim=True) + 1e-5).sqrt() * model.norm.weight
        expected.append(head(last, model.head))
    torch.testing.assert_close(model(x, lengths), torch.cat(expected), rtol=1e-4, atol=1e-5)
    assert part.position is None


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_padding_cannot_change_the_logits_of_frame_tokens(kind):
    model = shaken(replace(CONFIGS[kind], tokens="frames"))
    x, lengths = window(), torch.tensor([12, 7, 1, 4])
    padding = torch.arange(T) >= lengths[:, None]
    torch.testing.assert_close(model(x, lengths), model(x.masked_fill(padding[..., None], 50.0), lengths))


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_every_valid_frame_counts_in_frame_tokens(kind):
    model = shaken(replace(CONFIGS[kind], tokens="frames"))
    x, lengths = window(1), torch.tensor([7])
    before = model(x, lengths)
    for frame in range(7):
        other = x.clone()
        other[:, frame] += 1
        assert (model(other, lengths) - before).abs().max() > 1e-4, frame


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_dct_tokens_are_never_masked(kind):
    """Every coefficient of a short clip that was padded before the transform reaches the logits (docs/method.md)."""
    model = shaken(CONFIGS[kind])
    x = window()
    x[:, 5:] = 0
    short = torch.full((4,), 5)
    assert torch.equal(model(x, short), model(x))
    basis = torch.linalg.inv(dct_linear(torch.eye(T)[None], torch.eye(T))[0])  # column k: the k-th basis function
    for k in range(T):
        other = x + basis[:, k, None]
        assert (model(other, short) - model(x, short)).abs().max() > 1e-5, k


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_new_classifier_finds_all_classes_equally_likely(kind):
    model = build(CONFIGS[kind]).eval()
    assert (model(window()) == 0).all()
    F.cross_entropy(model(window()), torch.tensor([0, 1, 2, 3])).backward()
    assert model.head.out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("tokens", ["dct", "frames"])
def test_every_parameter_learns(kind, tokens):
    model = shaken(replace(CONFIGS[kind], tokens=tokens))
    F.cross_entropy(model(window(), torch.tensor([12, 7, 1, 4])), torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_dropout_is_where_the_design_puts_it():
    model = shaken(CONFIGS["transformer"])
    x = window()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    assert model.dropout.p == 0.2
    rates = [module.p for module in model.layers.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.2] * 6
    assert all(layer.self_attn.dropout == 0.2 for layer in model.layers)


def test_counted_dropout_is_a_function_of_seed_and_sample():
    model = shaken(CONFIGS["transformer"]).train()
    x, sample = window(6), torch.arange(6) + 2**40
    with torch.no_grad():
        out = model(x, None, (3, sample))
        assert torch.equal(model(x, None, (3, sample)), out)
        torch.testing.assert_close(model(x[2:4], None, (3, sample[2:4])), out[2:4])  # whatever else is in the batch
        assert (model(x, None, (4, sample)) - out).abs().amin() > 0
        assert (model(x, None, (3, sample + 1)) - out).abs().amin() > 0
        model.eval()
        assert torch.equal(model(x, None, (3, sample)), model(x))


def test_counted_dropout_drops_everywhere_that_torchs_does():
    """With nearly everything dropped, what is left of a layer is its residual: the tokens, which drop out too."""
    model = shaken(replace(CONFIGS["transformer"], dropout=0.9)).train()
    x = window(1).expand(3000, -1, -1)
    with torch.no_grad():
        counted = model(x, None, (0, torch.arange(3000)))
        torch.manual_seed(0)
        drawn = model(x)
    for moment in (torch.mean, torch.std):
        torch.testing.assert_close(moment(counted, 0), moment(drawn, 0), rtol=0.1, atol=0.1)


def test_layers_start_differently():
    model = build(CONFIGS["transformer"])
    assert not torch.equal(model.layers[0].linear1.weight, model.layers[1].linear1.weight)


def test_deep_mamba_starts_with_scaled_outputs():
    torch.manual_seed(0)
    shallow = build(replace(CONFIGS["mamba"], width=64, layers=1)).blocks[0].out_proj.weight.std()
    deep = build(replace(CONFIGS["mamba"], width=64, layers=4)).blocks[0].out_proj.weight.std()
    assert (deep / shallow).item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("kind", CONFIGS)
def test_batch_members_do_not_meet(kind):
    model = shaken(CONFIGS[kind])
    x = window()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[2:3], model(x[2:3]), rtol=1e-4, atol=1e-5)


def test_mamba_keeps_its_residual_in_fp32():
    model = shaken(CONFIGS["mamba"])
    seen = []
    model.blocks[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(window())
    assert seen == [torch.float32]


def test_cmlpe_starts_by_repeating_the_last_frame():
    model = build(CMLPeConfig(classes=CLASSES, dim=D, context=8, blocks=3))
    x = torch.randn(4, 8, D)
    torch.testing.assert_close(model(x, torch.tensor([0, 1, 2, 3])), x[:, -1:].expand(-1, 8, -1), rtol=0, atol=1e-5)


def test_cmlpe_has_the_parameters_of_the_contract():
    model = build(CMLPeConfig(classes=CLASSES, dim=D, context=8, blocks=3))
    assert tuple(model.state_dict()) == CMLPeParams._fields
    zero = build(CMLPeConfig(classes=CLASSES, dim=D, context=8, blocks=3, adaln_zero=True))
    assert (zero.mod_weight == 0).all()
    assert (model.mod_weight != 0).any()


def test_noise_is_a_function_of_seed_sample_and_twin():
    model = build(CMLPeConfig(classes=CLASSES, dim=D, context=8, blocks=3, embedding=6, noise=0.1))
    ids = torch.tensor([7, 8, 9])
    noise = model.draw_noise(3, ids, reverse=False)
    assert noise.shape == (3, 3, 6)
    assert torch.equal(noise, 0.1 * philox.normal(3, ids, philox.STREAM_FORWARD, 3, 6))
    assert torch.equal(noise[1:2], model.draw_noise(3, ids[1:2], reverse=False))
    assert not torch.equal(noise, model.draw_noise(3, ids, reverse=True))
    assert not torch.equal(noise, model.draw_noise(4, ids, reverse=False))


def test_twin_views_are_the_two_directions_of_one_clip():
    clip = torch.arange(8)[None]
    context, target = twin_view(clip, reverse=False)
    assert (context.tolist(), target.tolist()) == ([[0, 1, 2, 3]], [[4, 5, 6, 7]])
    context, target = twin_view(clip, reverse=True)
    assert (context.tolist(), target.tolist()) == ([[7, 6, 5, 4]], [[3, 2, 1, 0]])


def test_build_follows_the_config():
    assert [kind_of(config) for config in (CMLPeConfig(), TransformerSLConfig(), MambaSLConfig())] == [
        "cmlpe",
        "transformer_sl",
        "mamba_sl",
    ]
    assert isinstance(build(CONFIGS["transformer"]), TransformerSL)
    assert isinstance(build(CONFIGS["mamba"]), MambaSL)
    assert isinstance(build(CMLPeConfig(classes=2, dim=4, context=8)), CMLPe)


def test_impossible_configs_are_named():
    with pytest.raises(ConfigError, match="classes is 0"):
        build(TransformerSLConfig(dim=4))
    with pytest.raises(ConfigError, match="dim is 0"):
        build(MambaSLConfig(classes=4))
    with pytest.raises(ConfigError, match="multiple of heads"):
        build(replace(CONFIGS["transformer"], heads=3))
    with pytest.raises(ConfigError, match="int"):
        kind_of(3)
