"""selective_scan: the forms of its arguments, last state, chunks. The shared contract is in test_contract.py."""

import functools
import itertools

import oracles
import pytest
import tolerances
import torch
from backends import backends, param
from cases import CASES, MIXING_FORMS, make_scan, make_scan_form

from handcraft.kernels import selective_scan
from handcraft.kernels.selective_scan import reference


@pytest.fixture(params=[param(name) for name in backends("selective_scan", torch.float64)])
def scan(request):
    """The op, by every backend that computes in fp64."""
    return functools.partial(selective_scan, backend=request.param)


def as_numpy(tensors):
    return {name: value.detach().numpy() if torch.is_tensor(value) else value for name, value in tensors.items()}


@pytest.mark.parametrize(("form_B", "form_C"), list(itertools.product(MIXING_FORMS, repeat=2)))
def test_forms_of_B_and_C(form_B, form_C, scan):
    tensors = make_scan_form(form_B, form_C)
    truth, last = (torch.from_numpy(x) for x in oracles.selective_scan(**as_numpy(tensors), delta_softplus=True))
    found, state = scan(**tensors, delta_softplus=True, return_last_state=True)
    assert tolerances.error(found, truth) < tolerances.ORACLE
    assert tolerances.error(state, last) < tolerances.ORACLE
    inputs = [value.requires_grad_() for value in tensors.values()]
    names = list(tensors)

    def run(*values):
        return scan(**dict(zip(names, values, strict=True)), delta_softplus=True, return_last_state=True)

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("kept", list(itertools.product((False, True), repeat=4)))
def test_optional_arguments(kept, scan):
    tensors = make_scan(2)
    options = dict(zip(("D", "z", "delta_bias"), kept[:3], strict=True))
    given = {name: value if options.get(name, True) else None for name, value in tensors.items()}
    truth = torch.from_numpy(oracles.selective_scan(**as_numpy(given), delta_softplus=kept[3])[0])
    positional = [given[name] for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    assert tolerances.error(scan(*positional, kept[3]), truth) < tolerances.ORACLE


def test_last_state_alone_has_a_gradient(scan):
    tensors = {name: value.requires_grad_() for name, value in make_scan(2).items()}
    _, last = scan(**tensors, return_last_state=True)
    grads = torch.autograd.grad(last.sum(), [tensors[name] for name in ("u", "delta", "A", "B")])
    assert all(grad.abs().sum() > 0 for grad in grads)
    half = {name: value.detach().to(torch.bfloat16 if name in ("u", "delta", "B", "C", "z") else torch.float32)
            for name, value in tensors.items()}  # fmt: skip
    y, last = scan(**half, return_last_state=True)
    assert (y.dtype, last.dtype) == (torch.bfloat16, torch.float32)


def test_state_is_carried_over_in_full(scan):
    """Two halves joined through h = exp(delta A) h + ... give the whole: the last state is the state."""
    tensors = make_scan(2, length=8)
    _, last = scan(**tensors, return_last_state=True)
    first = {name: value[..., :7] if value.shape[-1] == 8 else value for name, value in tensors.items()}
    _, before = scan(**first, return_last_state=True)
    step = (tensors["delta"][..., 7] + tensors["delta_bias"])[..., None]
    added = step * tensors["B"][:, None, :, 7] * tensors["u"][..., 7][..., None]
    assert tolerances.error(torch.exp(step * tensors["A"]) * before + added, last) < tolerances.ORACLE


@pytest.mark.parametrize("form", MIXING_FORMS)
def test_chunks_of_the_reference_change_nothing(form, monkeypatch):
    tensors = {name: value.requires_grad_() for name, value in make_scan_form(form, form, batch=7).items()}
    whole = selective_scan(**tensors, backend="reference")
    grads = torch.autograd.grad(whole.sin().sum(), tensors.values())
    monkeypatch.setattr(reference, "CHUNK_ELEMENTS", 3 * 6 * 5 * 4)  # chunks of three clips, and one of one
    parts = selective_scan(**tensors, backend="reference")
    assert tolerances.error(parts, whole) < 1e-13
    for name, a, b in zip(tensors, torch.autograd.grad(parts.sin().sum(), tensors.values()), grads, strict=True):
        assert tolerances.error(a, b) < 1e-12, name


def test_no_graph_over_steps_and_states_are_not_kept(scan):
    tensors = CASES["selective_scan"].cast(make_scan(4, dim=8, length=33, state=16), torch.float32)
    tensors = {name: value.requires_grad_() for name, value in tensors.items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        out = scan(**tensors, delta_softplus=True)
    assert sum(kept) < 4 * 8 * 33 * 16  # less than one copy of the states
    nodes, queue = set(), [out.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            queue += [parent for parent, _ in node.next_functions]
    assert len(nodes) < 30


def test_large_steps_and_decays_stay_finite(scan):
    tensors = CASES["selective_scan"].cast(make_scan(2), torch.float32)
    tensors["delta"] = tensors["delta"] * 100
    tensors["A"] = tensors["A"] * 100
    tensors = {name: value.requires_grad_() for name, value in tensors.items()}
    out = scan(**tensors, delta_softplus=True)
    grads = torch.autograd.grad(out.sum(), tensors.values())
    assert all(torch.isfinite(x).all() for x in (out, *grads))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.ones(2, 6, 0)}, r"u has shape \(2, 6, 0\), expected \(B,D,L\) with L >= 1"),
        ({"delta": torch.ones(2, 6, 4)}, r"delta has shape \(2, 6, 4\), expected \(B,D,L\) = \(2, 6, 5\)"),
        ({"A": torch.ones(5, 4)}, r"A has shape \(5, 4\), expected \(D,N\) = \(6, 4\)"),
        ({"B": torch.ones(2, 3, 5)}, r"B has shape \(2, 3, 5\), expected \(B,N,L\) = \(2, 4, 5\)"),
        ({"B": torch.ones(2, 4, 4, 5)}, r"B has G = 4 groups, expected a divisor of D = 6"),
        ({"B": torch.ones(2, 2, 4, 4)}, r"B has shape \(2, 2, 4, 4\), expected \(B,G,N,L\) = \(2, 2, 4, 5\)"),
        ({"C": torch.ones(4, 6)}, r"C has shape \(4, 6\), expected \(D,N\) = \(6, 4\)"),
        ({"C": torch.ones(6)}, r"C has shape \(6,\), expected \(B,N,L\), \(B,G,N,L\) or \(D,N\)"),
        ({"B": torch.ones(2, 2, 4, 5), "C": torch.ones(2, 3, 4, 5)}, "B has 2 groups and C has 3, expected the same"),
        ({"D": torch.ones(5)}, r"D has shape \(5,\), expected \(D,\) = \(6,\)"),
        ({"z": torch.ones(2, 5, 5)}, r"z has shape \(2, 5, 5\), expected \(B,D,L\) = \(2, 6, 5\)"),
        ({"delta_bias": torch.ones(6, 1)}, r"delta_bias has shape \(6, 1\), expected \(D,\) = \(6,\)"),
    ],
)
def test_errors(change, message):
    tensors = CASES["selective_scan"].cast(make_scan(2, dim=6, length=5, state=4), torch.float32)
    with pytest.raises(ValueError, match="selective_scan: " + message):
        selective_scan(**{**tensors, **change})


def test_complex_A_is_refused():
    tensors = CASES["selective_scan"].cast(make_scan(2), torch.float32)
    with pytest.raises(TypeError, match=r"A is torch\.complex64, expected float32"):
        selective_scan(**{**tensors, "A": tensors["A"].to(torch.complex64)})
