"""Run folders written by hand."""

import json

ENV = "smacv2/terran_5_vs_5-v0"


def record(seed=1, env=ENV, algorithm="mappo", **config):
    return {
        "algorithm": algorithm,
        "environment": {"id": env, "fingerprint": {}},
        "resumed": [],
        "config": {"env": env, "seed": seed, "total_steps": 1000, "learning_rate": 0.001} | config,
    }


def write_run(folder, rows, **about):
    """Write a run folder; each row is a dict with global_step, or a line as it is."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(record(**about)))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    return folder


def battle_rows(rates, every=100, episodes=10, seconds=2.0):
    """Return a row every so many steps: the win rate of its battles, and two times of its own."""
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
