"""Layers that PyTorch lacks or runs slowly: a GRU over whole rollouts with resets inside."""

from typing import Any

import torch
from torch import Tensor, nn


class GruScan(torch.autograd.Function):
    """The recurrent part of GRUs over time, with forward and backward written by hand.

    A loop over `torch.nn.GRUCell` makes autograd record and allocate at every step. Here all steps
    write into four preallocated tensors (measured 1.1 to 1.6 times as fast on two CPU cores).
    Equations: Cho et al. 2014, as in `torch.nn.GRU` (reset gate after the recurrent product).

    Several GRUs of one size run side by side, each with its own weights on its own rows. Arguments
    of `apply`:

        gates    (grus, num_rows, 3 * hidden_size) input gates, bias included, ordered reset,
                 update, new; rows are ordered by time, and step t has `sizes[t]` of them
        hidden   (grus, sizes[0], hidden_size) hidden state before the first step
        keep     (grus, num_rows, 1) 1.0 to carry the hidden state into a step, 0.0 to zero it;
                 None carries it always
        weight   (grus, 3 * hidden_size, hidden_size) recurrent weights
        bias     (grus, 3 * hidden_size) recurrent bias
        sizes    sequences at each step, never more than at the step before: the last ones end
    """

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        hidden: Tensor,
        keep: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        sizes: list[int],
    ) -> Tensor:
        """Return the hidden states after each step, (grus, num_rows, hidden_size)."""
        size = hidden.shape[2]
        entering = gates.new_empty(*gates.shape[:2], size)  # hidden states before each step
        recurrent = torch.empty_like(gates)  # becomes reset, update, new's part
        new = torch.empty_like(entering)
        outputs = torch.empty_like(entering)
        both, reset, update, part = _gate_views(recurrent)
        steps = zip(  # views of one step, each (grus, sizes[step], ...)
            *(view.split(sizes, 1) for view in (gates[..., : 2 * size], gates[..., 2 * size :])),
            *(view.split(sizes, 1) for view in (entering, recurrent, both, reset, update, part)),
            *(view.split(sizes, 1) for view in (new, outputs)),
            keep.split(sizes, 1) if keep is not None else [None] * len(sizes),
            strict=True,
        )
        transposed = weight.transpose(1, 2)  # (grus, hidden_size, 3 * hidden_size)
        bias = bias.unsqueeze(1)  # (grus, 1, 3 * hidden_size)
        for in_both, in_new, h, product, gate, r, z, candidate, n, out, kept in steps:
            if kept is None:
                h.copy_(hidden[:, : h.shape[1]])
            else:
                torch.mul(hidden[:, : h.shape[1]], kept, out=h)
            torch.baddbmm(bias, h, transposed, out=product)
            gate.add_(in_both).sigmoid_()
            torch.addcmul(in_new, r, candidate, out=n).tanh_()
            hidden = torch.lerp(n, h, z, out=out)
        ctx.save_for_backward(entering, recurrent, new, weight)
        ctx.keep, ctx.sizes = keep, sizes
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of gates, hidden, (keep: none), weight, bias, (sizes: none)."""
        entering, recurrent, new, weight = ctx.saved_tensors
        keep, sizes = ctx.keep, ctx.sizes
        _, reset, update, part = _gate_views(recurrent)
        grads = torch.empty_like(recurrent)  # of the input gates
        grad_weight = torch.zeros_like(weight)
        grad_bias = weight.new_zeros(weight.shape[:2])
        whole = torch.zeros_like(entering[:, : sizes[0]])  # d loss / d hidden state
        scratches, grad_news = torch.empty_like(whole), torch.empty_like(whole)
        views = (grad_outputs, entering, reset, update, part, new, grads, *_gate_views(grads)[1:])
        steps = zip(  # views of one step, each (grus, sizes[step], ...)
            *(view.split(sizes, 1) for view in views),
            keep.split(sizes, 1) if keep is not None else [None] * len(sizes),
            strict=True,
        )
        for (
            *(grad_output, h, r, z, candidate, n, row, row_r, row_z, row_n),
            kept,
        ) in reversed(list(steps)):
            buffers = (whole, scratches, grad_news)
            d, scratch, grad_new = (buffer[:, : h.shape[1]] for buffer in buffers)
            d.add_(grad_output)
            torch.sub(h, n, out=scratch).mul_(d)
            _sigmoid_backward(scratch, z, grad_input=row_z)
            torch.addcmul(d, d, z, value=-1, out=scratch)
            _tanh_backward(scratch, n, grad_input=grad_new)
            torch.mul(grad_new, candidate, out=scratch)
            _sigmoid_backward(scratch, r, grad_input=row_r)
            torch.mul(grad_new, r, out=row_n)  # the recurrent product sees the reset gate ...
            grad_weight.baddbmm_(row.transpose(1, 2), h)  # (grus, 3 * hidden_size, hidden_size)
            grad_bias.add_(row.sum(1))
            d.mul_(z).baddbmm_(row, weight)
            if kept is not None:
                d.mul_(kept)
            row_n.copy_(grad_new)  # ... the input does not
        return grads, whole, None, grad_weight, grad_bias, None


_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


def _gate_views(gates: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return views of `gates`: reset and update together, reset, update, and the last third."""
    size = gates.shape[-1] // 3
    return gates[..., : 2 * size], *gates.split(size, -1)


class Gru(nn.Module):
    """A one-layer GRU over `(num_steps, batch, size)` with resets inside the sequence.

    Parameters are those of `torch.nn.GRUCell`: orthogonal weights, zero bias.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.input = nn.Linear(input_size, 3 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 3 * hidden_size)
        for linear in (self.input, self.recurrent):
            nn.init.orthogonal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, gates: Tensor, hidden: Tensor, keep: Tensor | None, sizes: list[int] | None = None
    ) -> Tensor:
        """Scan over time.

        Args:
            gates: (num_steps, batch, 3 * hidden_size) `self.input` of the inputs; with `sizes`
                (num_rows, 3 * hidden_size), packed by time as `GruScan` says.
            hidden: (batch, hidden_size) hidden state before the first step.
            keep: (num_steps, batch, 1) 0.0 if the hidden state is zeroed on entering the step;
                None if it never is.
            sizes: sequences at each step of a packed batch.

        Returns:
            Hidden states after each step, shaped as `gates` but `hidden_size` wide.
        """
        parts = (gates, hidden, keep, self.recurrent.weight, self.recurrent.bias)
        stacked = (None if part is None else part.unsqueeze(0) for part in parts)  # (1, ...) each
        return run_grus(*stacked, sizes=sizes).squeeze(0)  # as gates, but hidden_size wide

    def step(self, gates: Tensor, hidden: Tensor) -> Tensor:
        """Advance one step: gates (batch, 3 * hidden_size), hidden (batch, hidden_size)."""
        return self(gates, hidden, None, [len(gates)])


def run_grus(
    gates: Tensor,
    hidden: Tensor,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    sizes: list[int] | None = None,
) -> Tensor:
    """Scan several GRUs of one size over time, each on its own sequences.

    Args:
        gates: (grus, num_steps, batch, 3 * hidden_size) input gates; with `sizes`
            (grus, num_rows, 3 * hidden_size), packed by time as `GruScan` says.
        hidden: (grus, batch, hidden_size) hidden states before the first step.
        keep: (grus, num_steps, batch, 1), see `Gru`.
        weight: (grus, 3 * hidden_size, hidden_size) recurrent weights.
        bias: (grus, 3 * hidden_size) recurrent bias.
        sizes: sequences at each step of a packed batch.

    Returns:
        Hidden states after each step, shaped as `gates` but `hidden_size` wide.
    """
    if sizes is not None:
        return GruScan.apply(gates, hidden, keep, weight, bias, sizes)
    num_steps, batch = gates.shape[1:3]
    sizes = [batch] * num_steps
    gates = gates.flatten(1, 2)  # (grus, num_steps * batch, 3 * hidden_size)
    keep = None if keep is None else keep.flatten(1, 2)  # (grus, num_steps * batch, 1)
    outputs = GruScan.apply(gates, hidden, keep, weight, bias, sizes)
    return outputs.unflatten(1, (num_steps, batch))  # (grus, num_steps, batch, hidden_size)
