"""The thin modules: names, shapes, initialisation, and that they call the functions."""

import math

import pytest
import tolerances
import torch

from handcraft.kernels import CMLPeParams, MambaParams, cmlpe, dct_linear, mamba_block
from handcraft.kernels.modules import CMLPe, DCTLinear, MambaBlock


def test_cmlpe_state_dict_has_the_names_and_shapes_of_the_tuple():
    net = CMLPe(classes=7, dim=12, context=8, blocks=3, embedding=5)
    random = CMLPeParams.random(7, 12, 8, 3, 5)
    assert list(net.state_dict()) == list(CMLPeParams._fields)
    assert [value.shape for value in net.params()] == [value.shape for value in random]
    assert all(value.requires_grad for value in net.params())


@pytest.mark.parametrize("adaln_zero", [False, True])
def test_cmlpe_starts_as_repeat_the_last_frame_and_can_learn(adaln_zero):
    torch.manual_seed(0)
    net = CMLPe(classes=7, dim=12, adaln_zero=adaln_zero)
    x, label = torch.randn(4, 16, 12), torch.tensor([0, 6, 3, 3])
    out = net(x, label, 0.1 * torch.randn(4, 6, 32))
    assert (out - x[:, -1:]).abs().max() < 1e-6
    out.sin().sum().backward()
    assert net.out_weight.grad.abs().max() > 1e-3
    assert all(value.grad is not None for value in net.params())
    embedding = CMLPe(classes=500, dim=4).class_embedding
    assert abs(embedding.std() - 1) < 0.05
    assert net.fc_weight.abs().max() < (1.0 if adaln_zero else 1e-7)
    assert net.mod_weight.any() != adaln_zero


def test_cmlpe_forward_adds_noise_to_the_class_embedding():
    net = CMLPe(classes=7, dim=12, context=8, blocks=3, embedding=5)
    net.load_state_dict(CMLPeParams.random(7, 12, 8, 3, 5)._asdict())
    x, label, eps = torch.randn(4, 8, 12), torch.tensor([0, 6, 3, 3]), torch.randn(4, 3, 5)
    e = net.class_embedding[label][:, None] + eps
    assert torch.equal(net(x, label, eps), cmlpe(x, e, net.params()))
    quiet = net(x, label, torch.zeros_like(eps))
    assert tolerances.error(net(x, label), quiet) < tolerances.SLACK[torch.float32]
    net(x, label, eps).sum().backward()
    assert net.class_embedding.grad[[0, 3, 6]].abs().sum(1).all()
    assert not net.class_embedding.grad[[1, 2, 4, 5]].any()


def test_cmlpe_embedding_gradient_repeats_bitwise_on_two_threads():
    """Indexing adds its gradients up in any order on several threads; a resumed run has to continue bit for bit."""
    net = CMLPe(classes=3, dim=4, context=8, blocks=1, embedding=64)
    net.load_state_dict(CMLPeParams.random(3, 4, 8, 1, 64)._asdict())
    x, label, eps = torch.randn(512, 8, 4), torch.arange(512) % 3, torch.randn(512, 1, 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = set()
        for _ in range(5):
            (grad,) = torch.autograd.grad(net(x, label, eps).sin().sum(), net.class_embedding)
            found.add(grad.numpy().tobytes())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_cmlpe_names_a_bad_label():
    net = CMLPe(classes=3, dim=4)
    x = torch.randn(2, 16, 4)
    with pytest.raises(ValueError, match=r"CMLPe: label has values in \[0, 3\], expected within \[0, 2\]"):
        net(x, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"CMLPe: label has shape \(1,\), expected \(B,\) = \(2,\)"):
        net(x, torch.tensor([0]))


def test_mamba_state_dict_is_that_of_mamba_ssm():
    block = MambaBlock(40, state=6, conv=3, expand=2)
    expected = {
        "A_log": (80, 6),
        "D": (80,),
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 3),
        "conv1d.bias": (80,),
        "x_proj.weight": (3 + 12, 80),
        "dt_proj.weight": (80, 3),
        "dt_proj.bias": (80,),
        "out_proj.weight": (40, 80),
    }
    assert {name: tuple(value.shape) for name, value in block.state_dict().items()} == expected
    names = [name.replace(".", "_") for name in expected]
    assert sorted(names) == sorted(MambaParams._fields)
    for field, value in zip(MambaParams._fields, block.params(), strict=True):
        name = next(key for key in expected if key.replace(".", "_") == field)
        assert value is block.get_parameter(name)


def test_mamba_starts_as_mamba_ssm_does():
    torch.manual_seed(0)
    block = MambaBlock(256)
    assert torch.equal(block.A_log.exp().round(), torch.arange(1.0, 17).expand(512, 16))
    assert torch.equal(block.D, torch.ones(512))
    step = torch.nn.functional.softplus(block.dt_proj.bias.detach().double())
    assert 1e-3 * 0.99 < step.min() < 2e-3
    assert 0.05 < step.max() < 0.1 * 1.01
    middle = step.log().mean()
    assert abs(middle - (math.log(1e-3) + math.log(0.1)) / 2) < 0.2  # uniform in the logarithm
    assert block.dt_proj.weight.abs().max() <= 16**-0.5
    assert block.A_log._no_weight_decay
    assert block.D._no_weight_decay


def test_mamba_forward():
    block = MambaBlock(16)
    x = torch.randn(3, 9, 16)
    assert torch.equal(block(x), mamba_block(x, block.params()))


@pytest.mark.parametrize("cls", [None, "first", "last"])
@pytest.mark.parametrize("position", [None, 6])
@pytest.mark.parametrize("bias", [False, True])
def test_dct_linear_module(cls, position, bias):
    module = DCTLinear(5, 8, bias=bias, cls=cls, position=position)
    x = torch.randn(3, 6, 5)
    expected = dct_linear(
        x, module.weight, module.bias, cls=module.cls, position=module.position, cls_at=cls or "first"
    )
    assert torch.equal(module(x), expected)
    names = {"weight"} | ({"bias"} if bias else set()) | ({"cls"} if cls else set())
    assert set(module.state_dict()) == names | ({"position"} if position else set())
    assert expected.shape == (3, 6 + (cls is not None), 8)


def test_dct_linear_module_with_frame_tokens():
    module = DCTLinear(5, 8, cls="last", transform="none")
    x, lengths = torch.randn(3, 6, 5), torch.tensor([2, 6, 3])
    out = module(x, lengths)
    assert torch.equal(out[torch.arange(3), lengths], module.cls.expand(3, 8))
    with pytest.raises(ValueError, match="cls is 'middle', expected"):
        DCTLinear(5, 8, cls="middle")


def test_modules_take_fp64():
    x = torch.randn(2, 8, 12, dtype=torch.float64)
    assert CMLPe(3, 12, 8).double()(x, torch.tensor([0, 2])).dtype == torch.float64
    assert MambaBlock(12).double()(x).dtype == torch.float64
    assert DCTLinear(12, 4, cls="first").double()(x).dtype == torch.float64
