"""The layers of a network: hidden layers, their readers, the head; fresh weights for each.

Networks are chains: layers run in the order in which the module holds them. The last `nn.Linear`
is the head; all layers before it are hidden.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

NONLINEAR = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Sigmoid, nn.Tanh)
NORMS = (nn.LayerNorm, nn.GroupNorm)


class CReLU(nn.Module):
    """Concatenated ReLU, (relu(x), relu(-x)) along `dim`: twice as many units, none of them dead.

    Shang et al. 2016; Abbas et al. 2023, arXiv 2303.07507.
    """

    activation_name = "relu"  # for probes (`units.activation_name`)

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., units) to (..., 2 * units), or with `dim=-3` channels to twice as many."""
        both = (functional.relu(inputs), functional.relu(-inputs))  # (..., units) each
        return torch.cat(both, self.dim)  # (..., 2 * units)


class InjectedHead(nn.Linear):
    """A head with plasticity in reserve: W x at first; after injection W x + new x - copy x.

    Before the injection only W receives gradients, afterwards only `new`. The switch is a buffer,
    so it is saved with the weights.
    Nikishin et al. 2023, arXiv 2305.15555.
    """

    injected: Tensor  # () bool
    new_weight: nn.Parameter
    copy_weight: nn.Parameter
    new_bias: nn.Parameter | None
    copy_bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.register_buffer("injected", torch.zeros((), dtype=torch.bool))
        for part in ("new", "copy"):
            for name, parameter in (("weight", self.weight), ("bias", self.bias)):
                own = None if parameter is None else nn.Parameter(parameter.detach().clone())
                self.register_parameter(f"{part}_{name}", own)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (rows, in_features) to (rows, out_features)."""
        trained = super().forward(inputs)
        frozen = _without_gradient(inputs, self.weight, self.bias)
        added = functional.linear(inputs, self.new_weight, self.new_bias)
        added = added - _without_gradient(inputs, self.copy_weight, self.copy_bias)
        return torch.where(self.injected, frozen + added, trained)

    def reset_parameters(self) -> None:
        """Draw the weights anew and undo the injection."""
        super().reset_parameters()
        if "injected" in self._buffers:  # missing when nn.Linear first draws
            self.injected.fill_(False)

    @torch.no_grad()
    def inject(self, generator: torch.Generator) -> None:
        """Draw the new layer and its copy, and switch over; outputs do not change."""
        parameters = dict(self.named_parameters())
        for name, fresh in fresh_parameters(self, generator):
            if name.startswith("new_"):
                parameters[name].copy_(fresh)
                parameters[name.replace("new_", "copy_")].copy_(fresh)
        self.injected.fill_(True)


@dataclasses.dataclass(frozen=True)
class HiddenLayer:
    """A hidden layer and the layer that reads its units."""

    name: str
    layer: nn.Linear | nn.Conv2d
    reader: nn.Module  # its inputs are the units after their activation
    outgoing: tuple[str, ...]  # names of the weights that multiply the units
    copies: int  # of each unit in the reader's inputs: two after a CReLU

    @property
    def units(self) -> int:
        """The number of units; of a convolution, channels."""
        return self.layer.weight.shape[0]


def find_hidden_layers(module: nn.Module) -> list[HiddenLayer]:
    """Return the hidden layers in order."""
    found: list[HiddenLayer] = []
    layers = list(_chain(module))
    for position, (name, layer) in enumerate(layers):
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        copies = 1
        for reader_name, reader in layers[position + 1 :]:
            copies *= 1 + isinstance(reader, CReLU)
            if isinstance(reader, nn.Linear | nn.Conv2d):
                outgoing = _reading(reader_name, reader)
                found.append(HiddenLayer(name, layer, reader, outgoing, copies))
                break
    return found


def weight_names(module: nn.Module, *, head: bool = True) -> list[str]:
    """Return the parameter names of weight matrices and kernels, with or without the head's."""
    hidden = [parameter_name(layer.name, "weight") for layer in find_hidden_layers(module)]
    return [*hidden, *(_reading(*named_head(module)) if head else ())]


def head_index(network: nn.Sequential) -> int:
    """Return the position of the head in a flat network.

    Raises:
        ValueError: no layer is linear.
    """
    found = [at for at, layer in enumerate(network) if isinstance(layer, nn.Linear)]
    if not found:
        raise ValueError(f"no head: none of {len(network)} layers is nn.Linear")
    return found[-1]


def named_head(module: nn.Module) -> tuple[str, nn.Linear]:
    """Return the head and its name.

    Raises:
        ValueError: no layer is linear.
    """
    layers = [(name, layer) for name, layer in _chain(module) if isinstance(layer, nn.Linear)]
    if not layers:
        raise ValueError(f"{type(module).__name__} has no nn.Linear, so no head")
    return layers[-1]


def parameter_name(layer: str, parameter: str) -> str:
    """Return the name of a layer's parameter in its network; the network's own name is empty."""
    return f"{layer}.{parameter}" if layer else parameter


def fresh_parameters(module: nn.Module, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield names and new initial values of all parameters: PyTorch's defaults.

    Weights and biases of linear layers and convolutions are uniform within 1/√fan_in; gains of
    normalisations are one and their offsets zero. Any other layer draws with its own
    `reset_parameters`, in a copy.

    Raises:
        ValueError: a layer has parameters and no `reset_parameters`.
    """
    for name, layer in module.named_modules():
        for own, fresh in _fresh(layer, generator):
            yield parameter_name(name, own), fresh


def init_bound(weight: Tensor) -> float:
    """Return 1/√fan_in, the bound of PyTorch's default initialisation."""
    return 1 / math.sqrt(weight[0].numel())


def _fresh(layer: nn.Module, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield names and new values of the layer's own parameters, without those of its children."""
    old = dict(layer.named_parameters(recurse=False))
    if isinstance(layer, NORMS):
        for name, value in old.items():
            yield name, torch.full_like(value, float(name == "weight"))
    elif isinstance(layer, nn.Linear | nn.Conv2d):
        for name, value in old.items():
            yield name, _uniform(value, init_bound(layer.weight), generator)
    elif old:
        drawn = _reset_copy(layer, generator)
        yield from ((name, drawn[name].to(value.device)) for name, value in old.items())


def _uniform(old: Tensor, bound: float, generator: torch.Generator) -> Tensor:
    """Return uniform numbers within ±bound, like `old` in shape, dtype and device."""
    uniform = torch.rand(old.shape, generator=generator, device=generator.device, dtype=old.dtype)
    return (uniform.to(old.device) * 2 - 1) * bound


def _reset_copy(layer: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a layer's parameters after `reset_parameters`; the global generator is restored."""
    fresh = copy.deepcopy(layer).cpu()  # the CPU's global generator is easily restored
    reset = getattr(fresh, "reset_parameters", None)
    if not callable(reset):
        kind, names = type(layer).__name__, [name for name, _ in layer.named_parameters()]
        raise ValueError(f"no initial values known for {kind}.{names[0]}: no reset_parameters")
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        reset()
    return dict(fresh.named_parameters(recurse=False))


def _chain(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield names and modules of the layers, those without children, in order."""
    children = list(module.named_children())
    if not children:
        yield prefix, module
    for name, child in children:
        yield from _chain(child, f"{prefix}.{name}" if prefix else name)


def _reading(name: str, reader: nn.Module) -> tuple[str, ...]:
    """Return the full names of a layer's weights."""
    own = [own for own, _ in reader.named_parameters() if own.endswith("weight")]
    return tuple(parameter_name(name, weight) for weight in own)


def _without_gradient(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the outputs of a linear layer whose parameters get no gradient."""
    return functional.linear(inputs, weight.detach(), None if bias is None else bias.detach())
