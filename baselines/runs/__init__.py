"""The life of a training command: its loop, its folder, its checkpoints, its random numbers."""
