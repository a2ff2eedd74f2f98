"""Curves, figures, reports and statistics of finished runs; nothing here imports PyTorch."""
