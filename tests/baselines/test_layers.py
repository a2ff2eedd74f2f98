"""The GRU scan against PyTorch's own cell."""

import torch
from torch import nn

from baselines.layers import Gru, GruScan
from baselines.networks import Network


def as_cell(gru):
    cell = nn.GRUCell(gru.input.in_features, gru.hidden_size).to(gru.input.weight.dtype)
    cell.weight_ih.data, cell.bias_ih.data = gru.input.weight.data, gru.input.bias.data
    cell.weight_hh.data, cell.bias_hh.data = gru.recurrent.weight.data, gru.recurrent.bias.data
    return cell


def test_gru_scan_equals_a_cell_loop_with_resets_in_values_and_gradients():
    torch.manual_seed(0)
    gru = Gru(5, 7).double()
    for linear in (gru.input, gru.recurrent):
        nn.init.normal_(linear.bias)
    cell = as_cell(gru)
    inputs = torch.randn(9, 4, 5, dtype=torch.double)
    first = torch.randn(4, 7, dtype=torch.double)
    keep = (torch.rand(9, 4, 1) > 0.3).double()
    weights = torch.randn(9, 4, 7, dtype=torch.double)

    x, h = inputs.clone().requires_grad_(), first.clone().requires_grad_()
    outputs = gru(gru.input(x), h, keep)
    (outputs * weights).sum().backward()

    y, hidden = inputs.clone().requires_grad_(), first.clone().requires_grad_()
    begun, expected = hidden, []
    for step in range(9):
        hidden = cell(y[step], hidden * keep[step])
        expected.append(hidden)
    (torch.stack(expected) * weights).sum().backward()

    torch.testing.assert_close(outputs, torch.stack(expected))
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(h.grad, begun.grad)
    torch.testing.assert_close(gru.input.weight.grad, cell.weight_ih.grad)
    torch.testing.assert_close(gru.input.bias.grad, cell.bias_ih.grad)
    torch.testing.assert_close(gru.recurrent.weight.grad, cell.weight_hh.grad)
    torch.testing.assert_close(gru.recurrent.bias.grad, cell.bias_hh.grad)


def test_gru_scan_passes_gradcheck():
    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.double, requires_grad=True)

    keep = (torch.rand(4, 3, 1) > 0.4).double()
    arguments = (draw(4, 3, 6), draw(3, 2), keep, draw(6, 2), draw(6))
    assert torch.autograd.gradcheck(GruScan.apply, arguments)


def test_network_steps_equal_the_network_sequence():
    torch.manual_seed(0)
    network = Network(5, 8, 3, output_gain=1.0, recurrent=True)
    inputs = torch.randn(6, 4, 5)
    keep = torch.ones(6, 4, 1)
    keep[3, 1] = 0
    hidden = torch.randn(4, 8)
    rows = torch.arange(24)
    sequence, memory = network.sequence(inputs, hidden, keep, rows)
    for step in range(6):
        outputs, hidden = network.step(inputs[step], hidden * keep[step])
        torch.testing.assert_close(outputs, sequence.view(6, 4, 3)[step])
        torch.testing.assert_close(hidden, memory[step])
