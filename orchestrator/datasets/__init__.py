"""Public data sets: what there is, fetched, checked, and laid out as the tasks read it."""
