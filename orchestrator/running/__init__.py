"""A study from start to verdict: what runs next, on what, and when it ends."""
