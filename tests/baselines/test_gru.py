"""The GRU scan against PyTorch's own cell."""

import pytest
import torch
from torch import nn

from baselines.networks.gru import Gru, GruScan
from baselines.networks.network import Network


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


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [3, 3, 2, 1]])
@pytest.mark.parametrize("resets", [True, False])
def test_gru_scan_passes_gradcheck(sizes, resets):
    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.double, requires_grad=True)

    rows = sum(sizes)
    keep = (torch.rand(2, rows, 1) > 0.4).double() if resets else None
    arguments = (draw(2, rows, 6), draw(2, 3, 2), keep, draw(2, 6, 2), draw(2, 6), sizes)
    assert torch.autograd.gradcheck(GruScan.apply, arguments)


def test_packed_sequences_equal_a_cell_loop_over_each_to_1e_5():
    torch.manual_seed(0)
    gru, lengths = Gru(5, 7), [6, 4, 4, 1]
    cell = as_cell(gru)
    episodes = [torch.randn(length, 5) for length in lengths]
    sizes = [sum(length > step for length in lengths) for step in range(lengths[0])]
    packed = torch.cat([torch.stack([e[t] for e in episodes if t < len(e)]) for t in range(6)])
    weights = torch.randn(len(packed), 7)
    outputs = gru(gru.input(packed), torch.zeros(4, 7), None, sizes)
    gradient = torch.autograd.grad((outputs * weights).sum(), gru.recurrent.weight)[0]

    expected = torch.empty_like(outputs)
    starts = [sum(sizes[:step]) for step in range(6)]
    for index, episode in enumerate(episodes):
        hidden = torch.zeros(1, 7)
        for step, row in enumerate(episode):
            hidden = cell(row.unsqueeze(0), hidden)
            expected[starts[step] + index] = hidden[0]
    wanted = torch.autograd.grad((expected * weights).sum(), cell.weight_hh)[0]

    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


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
