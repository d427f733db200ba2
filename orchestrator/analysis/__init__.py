"""What a record means: leaderboards, verdicts, intervals, two results side by side, another scheduler."""
