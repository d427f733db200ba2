"""Where a trial runs: one attempt at it, what its task is given, its checkpoints, its maps, its other processes."""
