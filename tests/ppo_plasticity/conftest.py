"""Settings of these tests."""

import torch

torch.set_num_threads(1)  # tensors are tiny; idle threads that spin would only slow a busy machine
