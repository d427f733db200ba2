"""What would break a run, found before it does: facts of each machine, and what is judged of them."""
