"""The command as `python -m ppo_plasticity`."""

from ppo_plasticity.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
