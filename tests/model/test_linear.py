"""Products against the framework's, values and gradients, with and without the faster routine."""

import pytest
import torch
import torch.nn.functional as F

import model.linear as ours


@pytest.mark.parametrize("rows", [3, 200])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_equals_the_frameworks(rows, bias, fast, monkeypatch) -> None:
    if not fast:
        monkeypatch.setattr(ours, "_one_dnn", None)
    torch.manual_seed(0)
    tensors = [torch.randn(2, rows, 24), torch.randn(40, 24), *([torch.randn(40)] if bias else [])]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    gradient = torch.randn(2, rows, 40)
    expected, actual = F.linear(*tensors), ours.linear(*tensors)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    pairs = (torch.autograd.grad(output, tensors, gradient) for output in (actual, expected))
    for mine, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours.product(*tensors), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize(("rows", "shape"), [(3, (300, 260)), (200, (40, 24)), (200, (300, 260)), (80, (9000, 128))])
def test_gradients_of_weights(rows, shape, fast, monkeypatch) -> None:
    monkeypatch.setattr(ours, "_mkl_is_held_back", fast and ours._one_dnn is not None)
    torch.manual_seed(0)
    left, right, total = torch.randn(rows, shape[0]), torch.randn(rows, shape[1]), torch.randn(shape)
    expected = left.double().t() @ right.double()
    torch.testing.assert_close(ours.outer(left, right).double(), expected, rtol=1e-5, atol=1e-4)
    sum_ = total.clone()
    ours.add_outer(sum_, left, right)
    torch.testing.assert_close(sum_.double(), total.double() + expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("held_back", [False, True])
@pytest.mark.parametrize("rows", [8, 200])
def test_products_with_a_vocabulary(rows, held_back, monkeypatch) -> None:
    """More rows than a slice has, and more elements than a large weight."""
    monkeypatch.setattr(ours, "_mkl_is_held_back", held_back and ours._one_dnn is not None)
    torch.manual_seed(0)
    x, weight = torch.randn(rows, 250), torch.randn(17_000, 250)
    assert weight.numel() >= ours.LARGE_WEIGHT
    forth = ours.tall_product(x, weight)
    torch.testing.assert_close(forth.double(), x.double() @ weight.double().t(), rtol=1e-5, atol=1e-4)
    back = ours.product_back(forth, weight)
    torch.testing.assert_close(back.double(), forth.double() @ weight.double(), rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize(
    ("told", "held_back"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\n", True),  # Zen 5
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\n", False),  # Zen 3 and 4
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\n", False),
        ("processor\t: 0\nBogoMIPS\t: 243.75\n", False),
    ],
)
def test_where_mkl_is_held_back(told, held_back, monkeypatch) -> None:
    monkeypatch.setattr(ours.Path, "read_text", lambda self: told)
    assert ours._mkl_holds_back() == (held_back and torch.backends.mkl.is_available())


@pytest.mark.parametrize("rows", [8, 200])  # by the framework's routine, and by the faster one
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gated_layer_gives_what_its_parts_give_and_keeps_less(rows, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(ours.native_passes, "functions", lambda: None)
    torch.manual_seed(0)
    gate, up = (torch.randn(rows, 48, requires_grad=True) for _ in range(2))
    weight = torch.randn(32, 48, requires_grad=True)
    gradient = torch.randn(rows, 32)
    kept: dict[int, int] = {}

    def results(layer):
        kept.clear()

        def keep(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = layer()
        return sum(kept.values()), [output, *torch.autograd.grad(output, (gate, up, weight), gradient)]

    apart, expected = results(lambda: ours.linear(F.silu(gate) * up, weight))
    together, actual = results(lambda: ours.gated_linear(gate, up, weight))
    if compiled:
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    else:
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
    if rows > 64 and ours._one_dnn is not None:
        assert apart - together == 2 * gate.numel() * 4  # silu(gate) and its product with up
