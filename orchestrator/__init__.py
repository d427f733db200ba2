"""How experiments run: one YAML study becomes a plan, trials, a journal, a leaderboard and a verdict."""

__version__ = "0.1.0"
