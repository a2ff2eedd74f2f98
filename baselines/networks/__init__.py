"""Neural networks and the distributions and statistics beside them; modules only."""
