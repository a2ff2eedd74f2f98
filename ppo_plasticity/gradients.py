"""Metrics of gradients: size, agreement of samples, number of directions that can be learned.

Gradients are a mapping from parameter names to tensors, as `named_gradients` reads them after
`backward()`. A NaN in the input gives NaN.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ppo_plasticity.norms import global_norm
from ppo_plasticity.ranks import effective_rank


def named_gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients after `backward()`, detached; parameters without gradient are left out.

    They share memory with the module's gradients: clone them to keep them beyond `zero_grad`.
    """
    return {
        name: parameter.grad.detach()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def gradient_norm(gradients: Mapping[str, Tensor], *, batch_dims: int = 0) -> Tensor:
    """Return the Euclidean norm of all gradients together; 0 for none.

    Measure before clipping. The first `batch_dims` dimensions, for example of seeds, are kept.
    """
    return global_norm(gradients.values(), batch_dims=batch_dims)


def layer_norms(gradients: Mapping[str, Tensor], *, batch_dims: int = 0) -> dict[str, Tensor]:
    """Return the norm of every parameter's gradient, by its name."""
    return {
        name: global_norm([gradient], batch_dims=batch_dims) for name, gradient in gradients.items()
    }


def gradient_cosine(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Return the cosine between two gradients of the same network; 0 if either gradient is zero.

    Examples are the gradients of policy loss and value loss on a shared trunk, or of two
    minibatches.

    Raises:
        ValueError: the two do not name the same parameters.
    """
    if first.keys() != second.keys():
        odd = ", ".join(sorted(first.keys() ^ second.keys()))
        raise ValueError(f"parameters that only one of the two gradients has: {odd}")
    if not first:
        return torch.zeros(())
    flat = torch.cat([gradient.flatten() for gradient in first.values()])  # (parameters,)
    other = torch.cat([second[name].flatten() for name in first])  # (parameters,)
    return _directions(flat) @ _directions(other)


def per_sample_gradients(
    module: nn.Module, loss: Callable[..., Tensor], inputs: Tensor, *targets: Tensor
) -> Tensor:
    """Return the gradient of every sample's loss, one flat row per sample: (N, parameters).

    `loss(outputs, *targets)` gets the module's outputs for one sample, as a batch of one, and the
    targets of that sample; it returns a scalar. Memory is N times the network's; the time is about
    that of N backward passes in one batch.

    Args:
        module: a network whose rows do not influence each other (no batch normalisation).
        loss: a differentiable function of tensors.
        inputs: (N, ...) one sample per row.
        targets: (N, ...) each, further arguments of the loss.
    """
    parameters = {name: tensor.detach() for name, tensor in module.named_parameters()}
    buffers = {name: tensor.detach() for name, tensor in module.named_buffers()}

    def sample_loss(weights: dict[str, Tensor], sample: Tensor, *target: Tensor) -> Tensor:
        outputs = functional_call(module, {**weights, **buffers}, (sample[None],))  # (1, ...)
        return loss(outputs, *(tensor[None] for tensor in target))

    in_dims: Any = (None, *(0 for _ in range(1 + len(targets))))
    gradients = vmap(grad(sample_loss), in_dims=in_dims)(parameters, inputs, *targets)
    return torch.cat([tensor.flatten(1) for tensor in gradients.values()], dim=1)  # (N, P)


def gradient_covariance(gradients: Tensor) -> Tensor:
    """Return the cosines between all pairs of per-sample gradients: (N, P) to (N, N).

    Lyle et al. 2023 ("Understanding Plasticity in Neural Networks"): many large entries mean that
    samples push in few directions. A zero gradient has cosine 0 with all gradients, also itself.
    """
    directions = _directions(gradients)
    return directions @ directions.T


def gradient_covariance_rank(gradients: Tensor) -> Tensor:
    """Return the effective rank of `gradient_covariance`, in 1 ... N; 0 if all are zero.

    Costs O(N^2 P) for the matrix and O(N^3) for its eigenvalues.
    """
    return effective_rank(gradient_covariance(gradients))


def gradient_collinearity(gradients: Tensor) -> Tensor:
    """Return the mean cosine between the gradients of different samples; NaN for one sample.

    (N, P) to a scalar in -1/(N - 1) ... 1; at 1 all samples ask for the same change.
    """
    directions = _directions(gradients)
    count = len(directions)
    own = directions.square().sum()
    pairs = directions.sum(0).square().sum() - own
    return pairs / torch.as_tensor(float(count * (count - 1)), device=gradients.device)


def gradient_noise_scale(gradients: Tensor) -> Tensor:
    """Return tr(covariance) / |mean|^2 of per-sample gradients (N, P), unbiased in both terms.

    McCandlish et al. 2018: about the batch size beyond which more samples bring little. The
    estimate is negative if noise hides the mean, infinite or NaN if the mean is zero, and NaN for
    one sample.
    """
    count = len(gradients)
    mean = gradients.mean(0)
    squares = (gradients - mean).square().sum()
    noise = squares / torch.as_tensor(float(count - 1), device=gradients.device)
    return noise / (mean.square().sum() - noise / count)


def empirical_ntk(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the empirical neural tangent kernel J J^T on a probe batch: (N, ...) to (N, N).

    J (N, parameters) holds the gradient of the *sum* of a row's outputs, which costs one backward
    pass per row instead of one per row and output. Probe batches of 64 to 256 rows are usual;
    memory is N times the network's. The module must return one tensor.
    """
    jacobian = per_sample_gradients(module, torch.sum, inputs)
    return jacobian @ jacobian.T


def ntk_rank(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return the effective rank of the empirical neural tangent kernel, in 1 ... N.

    It counts the probe states that the network can still learn about independently (Lyle et al.
    2024, "Disentangling the Causes of Plasticity Loss"). 0 if no output depends on any parameter.
    """
    return effective_rank(empirical_ntk(module, inputs))


def _directions(gradients: Tensor) -> Tensor:
    """Return gradients (..., P) scaled to length 1; zero gradients stay zero."""
    norms = gradients.norm(dim=-1, keepdim=True)  # (..., 1)
    return gradients / torch.where(norms == 0, 1.0, norms)
