"""Neural networks, and the distributions and statistics that they need; modules only."""
