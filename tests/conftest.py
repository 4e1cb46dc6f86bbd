"""Settings for all tests."""

import torch

# Tiny models spend their time handing work to threads; with one thread the suite is faster and repeatable.
torch.set_num_threads(1)
