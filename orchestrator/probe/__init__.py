"""What one machine is like, gathered with the standard library alone: it is sent to machines that lack the rest."""
