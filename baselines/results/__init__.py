"""What is made of finished runs: curves, figures, reports, statistics. It imports no PyTorch."""
