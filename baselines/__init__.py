"""Learners on SMACv2 and everything a run needs. Importing this package imports no PyTorch."""
