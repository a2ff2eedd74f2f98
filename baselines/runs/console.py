"""Progress on the terminal: a live table on a TTY, one line per iteration elsewhere."""

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.table import Table


class Progress:
    """Show the progress of a run.

    Args:
        total_steps: environment steps of the whole run.
        start_step: environment steps done before this process.
    """

    def __init__(self, total_steps: int, start_step: int = 0) -> None:
        self.total_steps, self.start_step = total_steps, start_step
        self.began = time.perf_counter()
        self.live = None
        if sys.stdout.isatty():
            self.live = Live(console=Console(), auto_refresh=False)
            self.live.start()

    def update(self, global_step: int, metrics: dict[str, float]) -> None:
        """Show the metrics of one iteration."""
        fields = progress_fields(global_step, self.total_steps, metrics)
        fields["left"] = self._time_left(global_step)
        if self.live is None:
            print("  ".join(f"{name} {value}" for name, value in fields.items()), flush=True)
            return
        table = Table(show_header=False)
        for name, value in fields.items():
            table.add_row(name, value)
        self.live.update(table, refresh=True)

    def say(self, text: str) -> None:
        """Print a line of text, above the table if there is one."""
        if self.live is None:
            print(text, flush=True)
        else:
            self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Stop updating the table; it stays on the screen."""
        if self.live is not None:
            self.live.stop()

    def _time_left(self, global_step: int) -> str:
        done = global_step - self.start_step
        left = max(0, self.total_steps - global_step)
        return duration(left * (time.perf_counter() - self.began) / max(1, done))


def progress_fields(
    global_step: int, total_steps: int, metrics: dict[str, float]
) -> dict[str, str]:
    """Return the fields of a progress line by name: steps, results, speed, shares of time."""
    fields = {"step": f"{global_step:,}/{total_steps:,}"}
    if "charts/win_rate" in metrics:
        fields["win"] = f"{metrics['charts/win_rate']:.1%}"
    if "charts/episodic_return" in metrics:
        fields["return"] = f"{metrics['charts/episodic_return']:.2f}"
        fields["length"] = f"{metrics['charts/episodic_length']:.1f}"
    fields["steps/s"] = f"{metrics['charts/SPS']:,.0f}"
    parts = {name: metrics[f"time/{name}_seconds"] for name in ("env", "inference", "learn")}
    total = sum(parts.values()) or 1.0
    fields["time"] = " ".join(f"{name} {spent / total:.0%}" for name, spent in parts.items())
    return fields


def duration(seconds: float) -> str:
    """Return a number of seconds as `1h02m`, `3m20s` or `12s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
