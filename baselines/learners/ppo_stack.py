"""Several networks of one shape, one per seed, trained as one.

The parameters of all seeds are views of stacked tensors (seeds, *shape), so that a layer of all
seeds is one batched matrix product. No arithmetic crosses seeds: each gets what it would get alone,
bit for bit (if MKL multiplies, by the setting in baselines/__init__.py). Every seed also keeps an
ordinary module whose parameters are views of the stacked ones. Probes, interventions, evaluation
and checkpoints use that module.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.learners.ppo_policy import network_weights
from baselines.networks.single_agent import ActorCritic
from baselines.networks.stacked import RunLayer, one_by_one, prepared, stacked_layer

# Views of stacked tensors are not dense; gradients are added into them in place all the same.
warnings.filterwarnings("ignore", message="grad and param do not obey the gradient layout contract")

LANES = 64  # float32 of four AVX-512 registers


class Block:
    """Parameters of all seeds that one optimizer steps and one norm bounds.

    Args:
        modules: each seed's parameters, by name.

    Attributes:
        flat: (seeds, numbers) all values, with their gradients in `flat.grad`; for the optimizer.
            Rows are padded with zeros to whole vector registers, since vectorised kernels round
            the numbers left over at the end in another way.
        parameters: by name, (seeds, *shape) leaves that share the memory of `flat`.
    """

    def __init__(self, modules: Sequence[Mapping[str, nn.Parameter]]) -> None:
        shapes = {name: parameter.shape for name, parameter in modules[0].items()}
        rows = [torch.cat([p.detach().flatten() for p in module.values()]) for module in modules]
        padding = -rows[0].numel() % LANES
        self.flat = functional.pad(torch.stack(rows), (0, padding)).requires_grad_()
        self.flat.grad = torch.zeros_like(self.flat)
        self.parameters: dict[str, Tensor] = {}
        start = 0
        for name, shape in shapes.items():
            span = slice(start, start + shape.numel())
            leaf = self.flat.detach()[:, span].unflatten(1, shape or (1,)).requires_grad_()
            leaf.grad = self.flat.grad[:, span].unflatten(1, shape or (1,))
            self.parameters[name] = leaf
            for seed, module in enumerate(modules):
                module[name].data = leaf.detach()[seed]
                module[name].grad = leaf.grad[seed]
            start = span.stop

    def views(self, flat: Tensor, seed: int) -> dict[str, Tensor]:
        """Return one seed's parameters' shares of a tensor shaped like `flat`."""
        sizes = [leaf[0].numel() for leaf in self.parameters.values()]
        parts = flat[seed, : sum(sizes)].split(sizes)
        leaves = self.parameters.items()
        return {name: part.view(p.shape[1:]) for part, (name, p) in zip(parts, leaves, strict=True)}


class Stack:
    """The agents of several seeds.

    Args:
        agents: one module per seed, equal but for their values.
        blocks: name of each block to a test of parameter names; every parameter is in one block.
    """

    def __init__(
        self, agents: Sequence[nn.Module], blocks: Mapping[str, Callable[[str], bool]]
    ) -> None:
        self.agents = list(agents)
        named = [dict(agent.named_parameters()) for agent in agents]
        self.blocks = {
            block: Block([{name: p for name, p in own.items() if belongs(name)} for own in named])
            for block, belongs in blocks.items()
        }
        self.parameters: dict[str, Tensor] = {}
        for block in self.blocks.values():
            self.parameters |= block.parameters
        # A shared trunk is named once; its second name leads to the same stacked tensors.
        first = {id(p): name for name, p in named[0].items()}
        for name, p in agents[0].named_parameters(remove_duplicate=False):
            self.parameters[name] = self.parameters[first[id(p)]]
        networks = [name for name, _ in agents[0].named_children()]
        self._plans = {network: self._plan(network) for network in networks}

    def forward(self, network: str, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the sequential `network` of every seed on its inputs.

        Args:
            network: attribute of the agents.
            inputs: (seeds, rows, ...).

        Returns:
            Outputs (seeds, rows, outputs), and the outputs of all linear and convolutional layers
            but the last, in order: the pre-activations.
        """
        preactivations = []
        for run, is_weighted in self._plans[network]:
            inputs = run(inputs)
            if is_weighted:
                preactivations.append(inputs)
        return inputs, preactivations[:-1]

    def frozen(self, network: str) -> RunLayer:
        """Return a function from a network's inputs to its outputs: quicker, without gradient.

        The function reads the stacked weights, so it follows their changes.
        """
        runs = [prepared(run) for run, _ in self._plans[network]]
        return partial(functools.reduce, lambda inputs, run: run(inputs), runs)

    def blocks_of(self, network: str) -> list[Block]:
        """Return the blocks that hold a network's parameters; a shared trunk belongs to both."""
        return [block for name, block in self.blocks.items() if name in (network, "trunk")]

    def _plan(self, network: str) -> list[tuple[RunLayer, bool]]:
        """Return each layer of a network as a function, and whether it makes pre-activations."""
        layers = getattr(self.agents[0], network)
        return [
            (self._runner(layer, f"{network}.{index}"), isinstance(layer, nn.Linear | nn.Conv2d))
            for index, layer in enumerate(layers)
        ]

    def _runner(self, layer: nn.Module, name: str) -> RunLayer:
        """Return one layer as a function of all seeds at once, or of one seed after the other."""
        if isinstance(layer, nn.Flatten):
            return partial(torch.flatten, start_dim=2)
        leaves = layer.named_parameters(remove_duplicate=False)
        own = {leaf: self.parameters[f"{name}.{leaf}"] for leaf, _ in leaves}
        if known := stacked_layer(layer, own):
            return known
        if hasattr(layer, "stacked"):
            return partial(layer.stacked, **own)
        modules = [agent.get_submodule(name) for agent in self.agents]
        return partial(one_by_one, modules=modules, parameters=own)


def clip_gradients(blocks: Sequence[Block], max_norm: float) -> Tensor:
    """Scale each seed's gradients of the blocks together to a norm of at most `max_norm`.

    Returns:
        (blocks, seeds) norm of each block's gradient before.
    """
    norms = torch.stack([block.flat.grad.norm(dim=1) for block in blocks])
    scale = (max_norm / (joint_norm(norms) + 1e-6)).clamp(max=1.0).unsqueeze(1)
    for block in blocks:
        block.flat.grad.mul_(scale)
    return norms


def joint_norm(norms: Tensor) -> Tensor:
    """Return the norm (seeds,) of parts whose norms are (parts, seeds).

    Summed part by part: a reduction over the first axis would round by the number of seeds.
    """
    squares = norms.square().unbind(0)
    return sum(squares[1:], squares[0]).sqrt()


class SeedHandle:
    """One seed's network for interventions (`ppo_plasticity.interventions.Handle`).

    Args:
        stack: all seeds.
        seed: index of the seed.
        network: attribute of its agent.
        optimizers: of the blocks.
        generator: source of the interventions' random numbers.
    """

    def __init__(
        self,
        stack: Stack,
        seed: int,
        network: str,
        optimizers: Sequence[torch.optim.Optimizer],
        generator: torch.Generator,
    ) -> None:
        self.stack, self.seed, self.network = stack, seed, network
        self.optimizers, self.generator = optimizers, generator
        self.module: nn.Module = getattr(stack.agents[seed], network)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Differentiable parameters by their names in `module`."""
        names = [name for name, _ in self.module.named_parameters()]
        return {name: self.stack.parameters[f"{self.network}.{name}"][self.seed] for name in names}

    def moments(self, name: str) -> list[Tensor]:
        """Return Adam's moments of a parameter: two, four where two optimizers step it."""
        wanted = self.stack.parameters[f"{self.network}.{name}"]
        found = []
        for block, state in self._states():
            for stacked_name, leaf in block.parameters.items():
                if leaf is wanted:  # a shared trunk's go by the actor's names
                    moments = (state["exp_avg"], state["exp_avg_sq"])
                    found += [block.views(part, self.seed)[stacked_name] for part in moments]
        return found

    def reset_optimizer(self) -> None:
        """Forget moments and step count of every parameter of this network."""
        for block, state in self._states():
            if self._owns(block):
                state["exp_avg"][self.seed].zero_()
                state["exp_avg_sq"][self.seed].zero_()
                state["step"].zero_()

    def reset_step_count(self) -> None:
        """Let Adam count its steps from zero again and keep the moments."""
        for block, state in self._states():
            if self._owns(block):
                state["step"].zero_()

    def _owns(self, block: Block) -> bool:
        names = [name for name, _ in self.module.named_parameters()]
        own = {id(self.stack.parameters[f"{self.network}.{name}"]) for name in names}
        return any(id(leaf) in own for leaf in block.parameters.values())

    def _states(self) -> list[tuple[Block, dict[str, Tensor]]]:
        """Return each block with each state that an optimizer keeps of it."""
        return [
            (block, optimizer.state[block.flat])
            for optimizer in self.optimizers
            for block in self.stack.blocks.values()
            if block.flat in optimizer.state
        ]


class Moments:
    """Adam's moments of a stack, which checkpoints keep per seed.

    Args:
        stack: all seeds.
        optimizers: of its blocks.
    """

    def __init__(self, stack: Stack, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.stack, self.optimizers = stack, optimizers

    def state_dict(self, seed: int) -> list[dict[str, dict[str, Tensor]]]:
        """Return one seed's moments and step counts, by optimizer and block."""
        return [
            {
                name: {
                    key: value.clone() if key == "step" else value[seed].clone()
                    for key, value in optimizer.state[block.flat].items()
                }
                for name, block in self.stack.blocks.items()
                if block.flat in optimizer.state
            }
            for optimizer in self.optimizers
        ]

    def load_state_dict(self, seed: int, saved: list[dict[str, Any]]) -> None:
        """Restore one seed's moments and step counts."""
        for optimizer, moments in zip(self.optimizers, saved, strict=True):
            for name, values in moments.items():
                flat = self.stack.blocks[name].flat
                state = optimizer.state[flat]
                for key, value in values.items():
                    if key == "step":
                        state[key] = value.clone()
                    else:
                        state.setdefault(key, torch.zeros_like(flat))[seed] = value


def block_tests(agent: ActorCritic) -> dict[str, Callable[[str], bool]]:
    """Return a test of parameter names for each block: actor and critic, or trunk and two heads."""
    critics = {id(parameter) for parameter in agent.critic.parameters()}
    trunk = {name for name, p in agent.named_parameters() if id(p) in critics} - {
        name for name, _ in agent.named_parameters() if name.startswith("critic.")
    }
    tests = {
        "actor": lambda name: name.startswith("actor.") and name not in trunk,
        "critic": lambda name: name.startswith("critic."),
    }
    return tests | {"trunk": lambda name: name in trunk} if trunk else tests


class Seed:
    """One seed of PPO, as its checkpoints see it: a `runs.state.Saved`.

    Args:
        group: all seeds, a `ppo.Ppo`.
        index: of this seed.
    """

    algorithm = "ppo"
    counters = ("iteration",)

    def __init__(self, group: Any, index: int) -> None:
        self.group, self.index = group, index
        self.network, self.battles = self, group.env  # its weights, and its environments

    @property
    def global_step(self) -> int:
        """Environment steps that the seed has done."""
        return int(self.group.global_steps[self.index])

    @global_step.setter
    def global_step(self, value: int) -> None:
        self.group.global_steps[self.index] = value

    @property
    def iteration(self) -> int:
        """Iterations that all seeds have done."""
        return self.group.iteration

    @iteration.setter
    def iteration(self, value: int) -> None:
        self.group.iteration = value

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights, and the statistics that a policy needs beside them."""
        weights = self.group.stack.agents[self.index].state_dict()
        statistics = self.group.preprocessor.state_dict(self.index)
        return {name: value.clone() for name, value in weights.items()} | {
            f"preprocessor.{name}": value
            for name, value in statistics.items()
            if name != "discounted"
        }

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Restore the weights; statistics are part of `parts`."""
        self.group.stack.agents[self.index].load_state_dict(network_weights(weights))

    def parts(self) -> dict[str, Any]:
        """Return everything that changes in training but weights, environments and counters."""
        group, index = self.group, self.index
        return {
            "optimizers": OfSeed(group.moments, index),
            "generator": group.generators[index],
            "preprocessor": OfSeed(group.preprocessor, index),
            "excess": group.trust_regions[index],
            "interventions": group.plasticity[index],
        }


class OfSeed:
    """One seed's share of an object that keeps the state of all seeds.

    Args:
        whole: the object; its `state_dict` and `load_state_dict` take a seed's index first.
        index: of the seed.
    """

    def __init__(self, whole: Any, index: int) -> None:
        self.whole, self.index = whole, index

    def state_dict(self) -> Any:
        """Return the seed's state."""
        return self.whole.state_dict(self.index)

    def load_state_dict(self, saved: Any) -> None:
        """Restore the seed's state."""
        self.whole.load_state_dict(self.index, saved)
