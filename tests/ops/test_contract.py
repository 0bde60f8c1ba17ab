"""What every op promises: agreement with its oracle, dtypes, gradients, strides, empty batches, named errors.

Every backend that runs here keeps these promises, and fresh memory is filled with NaN in all tests, so that an element
that a kernel forgot to write shows.
"""

import dataclasses
import functools

import backends
import cases
import pytest
import tolerances
import torch
from cases import CASES

from handcraft.kernels import dispatch, env

HALF = (torch.bfloat16, torch.float16)


def pairs(dtype):
    """Each op with each backend that computes it in this dtype."""
    return [backends.param(name, (op, name)) for op in sorted(CASES) for name in backends.backends(op, dtype)]


def run_by(op, backend):
    return dataclasses.replace(CASES[op], call=functools.partial(CASES[op].call, backend=backend))


@pytest.fixture(params=pairs(torch.float32))
def case(request):
    """A case whose op is run by one backend, unless the test names another."""
    return run_by(*request.param)


@pytest.fixture(params=pairs(torch.float64))
def exact_case(request):
    """As `case`, for backends that compute in fp64."""
    return run_by(*request.param)


@pytest.fixture(autouse=True)
def poisoned_memory():
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    yield
    torch.use_deterministic_algorithms(False)


def by_reference(case):
    return functools.partial(case.run, backend="reference")


def test_fresh_memory_is_poisoned():
    assert torch.empty(1000).isnan().all()


def leaves(tensors):
    return {name: value.detach().clone().requires_grad_() for name, value in tensors.items()}


def gradients(case, tensors, run, cotangent):
    """Output and gradients by name; parameters that the op does not read are left out."""
    names = case.differentiable()
    inputs = leaves(tensors)
    out = run(inputs)
    grads = torch.autograd.grad(out, [inputs[name] for name in names], cotangent.to(out.dtype))
    return out.detach(), dict(zip(names, grads, strict=True))


def test_agrees_with_numpy(exact_case):
    tensors = exact_case.make(3)
    assert (
        tolerances.error(exact_case.run(tensors), torch.from_numpy(exact_case.run_oracle(tensors))) < tolerances.ORACLE
    )


@pytest.mark.parametrize(
    ("make", "op"),
    [
        (lambda: cases.make_dct_linear(2, frames=1), "dct_linear"),
        (lambda: cases.make_dct_linear(2, frames=129, dim=1, width=3), "dct_linear"),
        (lambda: cases.make_adaln_mlp(2, dim=1, frames=1), "adaln_mlp"),
        (lambda: cases.make_adaln_mlp(1, dim=45, frames=7), "adaln_mlp"),
        (lambda: cases.make_stack(2, dim=17, frames=3), "adaln_mlp_stack"),
        (lambda: cases.make_cmlpe(2, dim=7, frames=1), "cmlpe"),
        (lambda: cases.make_cmlpe(1, dim=45, frames=13), "cmlpe"),
        (lambda: cases.make_scan(2, dim=3, length=1, state=1), "selective_scan"),
        (lambda: cases.make_scan(1, dim=1, length=37, state=3), "selective_scan"),
        (lambda: cases.make_mamba(2, width=5, length=1), "mamba_block"),
        (lambda: cases.make_mamba(1, width=17, length=11), "mamba_block"),
        (lambda: cases.make_motion(2, frames=1, dim=2), "motion_norms"),
        (lambda: cases.make_motion(1, frames=9, dim=180), "motion_norms"),
    ],
)
def test_odd_sizes(make, op):
    tensors = make()
    truth = torch.from_numpy(CASES[op].run_oracle(tensors))
    assert tolerances.error(CASES[op].run(tensors), truth) < tolerances.ORACLE


def test_gradcheck(exact_case):
    names = exact_case.differentiable()
    fixed = {name: value for name, value in exact_case.make(2).items() if name not in names}
    inputs = leaves({name: value for name, value in exact_case.make(2).items() if name in names})

    def run(*values):
        return exact_case.run({**fixed, **dict(zip(names, values, strict=True))})

    assert torch.autograd.gradcheck(run, tuple(inputs.values()), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_precision(case, dtype):
    """Output and every gradient: at most twice PyTorch's own error in the dtype, plus slack; dtypes as promised."""
    slow = env.interpreting() and case.call.keywords["backend"] == "triton"
    tensors = case.cast(case.make(5 if slow else 16), dtype)
    exact = {name: value.double() for name, value in tensors.items()}
    (cotangent,) = cases.draw(tuple(by_reference(case)(exact).shape), seed=9)
    truth, truth_grads = gradients(case, exact, by_reference(case), cotangent)
    value, grads = gradients(case, tensors, case.run, cotangent)
    narrow = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    plain, plain_grads = gradients(case, narrow, case.run_plain, cotangent)
    assert value.dtype == dtype
    tolerances.check(case.op, value, truth, plain, dtype)
    for name, grad in grads.items():
        assert grad.dtype == tensors[name].dtype, name
        tolerances.check(f"gradient of {name}", grad, truth_grads[name], plain_grads[name], dtype)


def test_mixed_activations(case):
    """The output has the first argument's dtype, each gradient its input's, whatever the other activations are."""
    first, *others = case.activations
    tensors = case.cast(case.make(3), torch.float32)
    tensors[first] = tensors[first].to(torch.bfloat16)
    for i, name in enumerate(others):
        tensors[name] = tensors[name].to((torch.float32, torch.float16)[i % 2])
    out, grads = gradients(case, tensors, case.run, torch.ones_like(case.run(tensors)))
    assert out.dtype == torch.bfloat16
    assert {name: grad.dtype for name, grad in grads.items()} == {name: tensors[name].dtype for name in grads}


def test_strided_views(case):
    """Slices of larger buffers (NaN around them) and transposed tensors give what contiguous tensors give."""
    tensors = case.cast(case.make(3), torch.float32)
    views = {}
    for name, value in tensors.items():
        buffer = torch.full([2 * size + 1 for size in value.shape], float("nan"))
        view = buffer[tuple(slice(1, None, 2) for _ in value.shape)]
        views[name] = view.copy_(value)
        assert not view.is_contiguous() or view.numel() < 2
    turned = {name: value.mT.contiguous().mT if value.dim() > 1 else value for name, value in tensors.items()}
    cotangent = torch.randn_like(case.run(tensors))
    expected, grads = gradients(case, tensors, case.run, cotangent)
    for strided in (views, turned):
        for name, value in strided.items():
            value.requires_grad_(name in grads)
        out = case.run(strided)
        found = torch.autograd.grad(out, [strided[name] for name in grads], cotangent.mT.contiguous().mT)
        assert tolerances.error(out, expected) < tolerances.SLACK[torch.float32]
        for name, grad in zip(grads, found, strict=True):
            assert tolerances.error(grad, grads[name]) < 4 * tolerances.SLACK[torch.float32], name


def test_gradient_of_an_expanded_cotangent(case):
    """`sum().backward()` hands over a gradient of stride zero."""
    tensors = case.cast(case.make(3), torch.float32)
    inputs = leaves(tensors)
    out = case.run(inputs)
    names = case.differentiable()
    expanded = torch.autograd.grad(out.sum(), [inputs[name] for name in names])
    _, full = gradients(case, tensors, case.run, torch.ones_like(out))
    for name, grad in zip(names, expanded, strict=True):
        assert tolerances.error(grad, full[name]) < 4 * tolerances.SLACK[torch.float32], name


def test_empty_batch(case):
    tensors = case.cast(case.make(0), torch.float32)
    out, grads = gradients(case, tensors, case.run, torch.ones_like(case.run(tensors)))
    assert out.shape == (0, *case.run(case.cast(case.make(1), torch.float32)).shape[1:])
    for name, grad in grads.items():
        assert grad.shape == tensors[name].shape
        assert not grad.any(), name


def test_inputs_are_not_overwritten_and_repeats_are_bitwise_equal(case):
    tensors = case.cast(case.make(5), torch.float32)
    before = {name: value.clone() for name, value in tensors.items()}
    cotangent = torch.randn_like(case.run(tensors))
    kept = cotangent.clone()
    first, first_grads = gradients(case, tensors, case.run, cotangent)
    second, second_grads = gradients(case, tensors, case.run, cotangent)
    assert torch.equal(first, second)
    assert all(torch.equal(first_grads[name], second_grads[name]) for name in first_grads)
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)
    assert torch.equal(cotangent, kept)


def test_does_not_write_into_a_gradient_it_is_given(case):
    inputs = leaves(case.cast(case.make(3), torch.float32))
    out = case.run(inputs)
    seen = torch.randn_like(out)
    kept = seen.clone()
    out.backward(seen)
    assert torch.equal(seen, kept)


def test_autocast_casts_the_first_argument_alone(case):
    tensors = case.cast(case.make(3), torch.float32)
    first = case.activations[0]
    rounded = {**tensors, first: tensors[first].to(torch.bfloat16)}
    expected, expected_grads = gradients(case, rounded, case.run, torch.ones_like(case.run(rounded)))
    inputs = leaves(tensors)
    with torch.autocast(backends.DEVICE, dtype=torch.bfloat16):
        out = case.run(inputs)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, expected)
    grads = torch.autograd.grad(out, [inputs[name] for name in expected_grads], torch.ones_like(out))
    for name, grad in zip(expected_grads, grads, strict=True):
        assert grad.dtype == torch.float32, name
        assert torch.equal(grad, expected_grads[name].float()), name


def test_autocast_leaves_fp64_alone(exact_case):
    exact = exact_case.cast(exact_case.make(3), torch.float64)
    with torch.autocast(backends.DEVICE, dtype=torch.bfloat16):
        assert exact_case.run(exact).dtype == torch.float64
        assert torch.equal(exact_case.run(exact), exact_case.run(exact))


def test_fp64_is_computed_in_fp64_with_fp32_parameters_too(exact_case):
    mixed = exact_case.cast(exact_case.make(3), torch.float32)
    mixed = {name: value.double() if name in exact_case.activations else value for name, value in mixed.items()}
    truth = torch.from_numpy(exact_case.run_oracle(mixed))
    assert exact_case.run(mixed).dtype == torch.float64
    assert tolerances.error(exact_case.run(mixed), truth) < tolerances.ORACLE


def shown(name):
    return name.replace(".", r"\.")


def test_wrong_dtypes_are_named(case):
    tensors = case.cast(case.make(2), torch.float32)
    for name, value in tensors.items():
        wrong = torch.int64 if name in case.activations else torch.bfloat16
        with pytest.raises(TypeError, match=rf"{case.op}: {shown(name)} is torch\.{str(wrong)[6:]}, expected float32"):
            case.run({**tensors, name: value.to(wrong)})
        if name != case.activations[0]:
            with pytest.raises(TypeError, match=rf"{case.op}: {shown(name)} is (torch\.)?float64"):
                case.run({**tensors, name: value.double()})
        with pytest.raises(TypeError, match=rf"{case.op}: {shown(name)} is list, expected a torch\.Tensor"):
            case.run({**tensors, name: value.tolist()})


def test_wrong_shapes_are_named(case):
    """An extra row of any tensor but the first is refused, naming it with its shape; so is an extra dimension."""
    tensors = case.cast(case.make(2), torch.float32)
    free = {"params.class_embedding"}  # any number of classes
    for name, value in tensors.items():
        if name == case.activations[0]:
            continue
        longer = torch.cat((value, value[:1]))
        if name in free:
            longer = torch.cat((value, value[:, :1]), dim=1)
        with pytest.raises(ValueError, match=rf"{case.op}: .* has shape \(.*\), expected \("):
            case.run({**tensors, name: longer})
        with pytest.raises(ValueError, match=rf"{case.op}: {shown(name)} has shape \(.*\), expected \("):
            case.run({**tensors, name: value[None, None, None]})


def test_first_argument_of_wrong_rank_is_named(case):
    tensors = case.cast(case.make(2), torch.float32)
    first = case.activations[0]
    with pytest.raises(ValueError, match=rf"{case.op}: {first} has shape \(.*\), expected \(B,"):
        case.run({**tensors, first: tensors[first][0]})


def test_device_mismatch_is_named(case):
    tensors = case.cast(case.make(2), torch.float32)
    for name, value in tensors.items():
        if name != case.activations[0]:
            with pytest.raises(
                ValueError, match=rf"{case.op}: {shown(name)} is on meta, the first argument is on {backends.DEVICE}"
            ):
                case.run({**tensors, name: value.to("meta")})


def test_params_of_another_type_are_named(case):
    if case.params is None:
        pytest.skip("the op takes no parameter tuple")
    given = case.arguments(case.cast(case.make(2), torch.float32))
    with pytest.raises(TypeError, match=rf"{case.op}: params is tuple, expected {case.params.__name__}"):
        case.call(**{**given, "p": tuple(given["p"])})


def test_backend_by_name(case):
    tensors = case.cast(case.make(2), torch.float32)
    with pytest.raises(ValueError, match=f"{case.op}: backend is 'fast', expected one of auto, reference"):
        case.run(tensors, backend="fast")
    for name in ("cpu", "triton", "cuda", "mamba_ssm"):
        if not any(rule.op == case.op and rule.backend == name for rule in dispatch.RULES):
            with pytest.raises(dispatch.BackendError, match=f"{case.op}: backend '{name}' is not implemented"):
                case.run(tensors, backend=name)
