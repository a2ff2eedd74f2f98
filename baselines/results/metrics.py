"""Names of the metrics that figures, warnings and tables read; docs/baselines.md lists all."""

RETURN = "charts/episodic_return"
WIN_RATE = "charts/win_rate"
EPISODE_COUNT = "charts/episodes"
ENTROPY = "losses/entropy"
RANK = "plasticity/approximate_rank/actor"
DEAD_UNITS = "plasticity/dead_units/actor"
NORM = "plasticity/preactivation_norm/actor"
POLICY_VARIANCE = "plasticity/policy_variance/actor"
EXCESS = "trust_region/excess_ratio"
EXCESS_WINDOW = "trust_region/excess_ratio_window"
BELOW_CLIP = "trust_region/ratio_below_mean"
KL = "trust_region/kl"
REPORTED = (RETURN, ENTROPY, RANK, DEAD_UNITS, NORM, POLICY_VARIANCE)
REPORTED += (EXCESS, EXCESS_WINDOW, BELOW_CLIP, KL)
CAPACITY = "capacity/last_minibatch/actor"  # from capacity.json; the loss that the paper reports
WALL_CLOCK = "time/seconds"  # never logged: running sum of a run's time/*_seconds
EPISODE_MEANS = {  # each value is a mean over the episodes of an iteration
    *(WIN_RATE, RETURN, "charts/episodic_length"),
    *("charts/draw_rate", "charts/timeout_rate"),
}
