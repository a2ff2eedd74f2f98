"""Three marines against two on the real engine: a battle that can be learnt in seconds."""

import gymnasium

from smacv2.scenario import parse_scenario

BATTLE = "battle3v2:toy/3_vs_2_marines-v0"
SCENARIO = {
    "summary": "3 marines against 2",
    "race": "terran",
    "num_agents": 3,
    "num_enemies": 2,
    "episode_limit": 60,
    "arena": "32x32_flat",
    "team": {
        "kind": "fixed",
        "unit_types": ["marine"],
        "items": [{"ally": ["marine"] * 3, "enemy": ["marine"] * 2}],
    },
}

if "toy/3_vs_2_marines-v0" not in gymnasium.registry:
    gymnasium.register(
        "toy/3_vs_2_marines-v0",
        vector_entry_point="smacv2.gymnasium_env:SMACv2VectorEnv",
        kwargs={
            "scenario": parse_scenario(SCENARIO, name="3_vs_2_marines", file=__file__),
            "num_threads": 1,  # so small that threads would wait for each other
        },
    )
