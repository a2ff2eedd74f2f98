"""Run folders whose logs are written by hand."""

import json

ENV = "smacv2/terran_5_vs_5-v0"


def record(seed=1, env=ENV, algorithm="mappo", **config):
    """Return the content of a config.json with these settings."""
    return {
        "algorithm": algorithm,
        "environment": {"id": env, "fingerprint": {}},
        "resumed": [],
        "config": {"env": env, "seed": seed, "total_steps": 1000, "learning_rate": 0.001} | config,
    }


def write_run(folder, rows, **settings):
    """Write a run folder; each row is a dict with global_step, or a raw line."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record(**settings)))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def battle_rows(rates, every=100, episodes=10, seconds=2.0):
    """Return one row per win rate, `every` steps apart, with two times that add up to `seconds`."""
    return [
        {
            "global_step": every * number,
            "charts/episodes": episodes,
            "charts/win_rate": rate,
            "time/env_seconds": 0.75 * seconds,
            "time/learn_seconds": 0.25 * seconds,
        }
        for number, rate in enumerate(rates, 1)
    ]
