"""What to try next, and which trials stop early."""
