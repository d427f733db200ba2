"""What one machine is like, gathered with the standard library alone: half of its packages may be broken."""
