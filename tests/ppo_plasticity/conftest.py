"""Settings of these tests."""

import torch

torch.set_num_threads(1)  # tensors are tiny; spinning idle threads would slow a busy machine
