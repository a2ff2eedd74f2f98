"""From an environment to a minibatch."""
