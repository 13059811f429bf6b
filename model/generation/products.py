"""Matrix products with weights that do not change, where a row's result does not depend on how many rows there are.

On a CPU the general float32 product brings the weights into its own order at every call, which at the few rows of a
decode step costs as much as the product. oneDNN keeps them in that order: measured with one thread on an AVX-512
core at 0.5B shapes, 94 against 46 GFLOP/s for 16 rows, and the same bits for a row alone or among 1,024.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows that the order of the packed weights is chosen for: the best compromise of 1 to 64.
_PACKED_FOR = 16
_least_rows: dict[tuple[int, ...], int] = {}


class Product:
    """``x weight^T + bias`` of ``weight`` (N, K), for x (T, K). Packing holds a copy of the weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, pack: bool = True) -> None:
        weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self.packed = pack and can_pack(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_FOR) if self.packed else weight
        self.least = _rows_for_equal_bits(self, tuple(weight.shape)) if weight.device.type == "cpu" else 1

    def __call__(self, x: Tensor) -> Tensor:
        return self._apply(x, None, "none")

    def silu(self, x: Tensor) -> Tensor:
        """silu of the product."""
        return self._apply(x, None, "silu")

    def sigmoid(self, x: Tensor) -> Tensor:
        """sigmoid of the product. Apart from it, the numbers at a vector's end would come from another formula."""
        return self._apply(x, None, "sigmoid")

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The product times ``factor`` (T, N), elementwise."""
        return self._apply(x, factor, "mul")

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """The product plus ``residual`` (T, N)."""
        return self._apply(x, residual, "add")

    def _apply(self, x: Tensor, other: Tensor | None, then: str) -> Tensor:
        rows = x.shape[0]
        if rows < self.least:
            pad = (0, 0, 0, self.least - rows)
            other = None if other is None else F.pad(other, pad)
            return self._apply(F.pad(x, pad), other, then)[:rows]
        if self.packed:
            if other is not None:
                return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, then)
            return torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, "swish" if then == "silu" else then, [], ""
            )
        product = F.linear(x, self.weight, self.bias)
        if then == "none":
            return product
        if other is None:
            return F.silu(product) if then == "silu" else product.sigmoid_()
        return product.mul_(other) if then == "mul" else product.add_(other)


def can_pack(weight: Tensor) -> bool:
    """Whether there is a kernel for matrices of this kind."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def _rows_for_equal_bits(product: Product, shape: tuple[int, ...]) -> int:
    """The fewest rows from which a row's bits stop depending on their number: libraries take other paths for one row
    or very few (seen: up to 3 rows unpacked, 1 row packed where K is 2,048 or more)."""
    product.least = 1
    key = (*shape, product.packed, torch.get_num_threads())
    if key not in _least_rows:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(16, shape[1], generator=generator).to(product.weight.dtype)
        row = product(x)[0]
        same = [rows for rows in (1, 2, 4, 8) if torch.equal(product(x[:rows])[0], row)]
        _least_rows[key] = next((rows for rows in same if all(more in same for more in (2, 4, 8) if more > rows)), 1)
    return _least_rows[key]
