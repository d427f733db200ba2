"""The command line's groups of commands, how it explains itself and completes what is typed. No logic."""
