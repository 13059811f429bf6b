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
    monkeypatch.setattr(ours, "_one_dnn_outer", fast and ours._one_dnn is not None)
    torch.manual_seed(0)
    left, right, total = torch.randn(rows, shape[0]), torch.randn(rows, shape[1]), torch.randn(shape)
    expected = left.double().t() @ right.double()
    torch.testing.assert_close(ours.outer(left, right).double(), expected, rtol=1e-5, atol=1e-4)
    sum_ = total.clone()
    ours.add_outer(sum_, left, right)
    torch.testing.assert_close(sum_.double(), total.double() + expected, rtol=1e-5, atol=1e-4)
