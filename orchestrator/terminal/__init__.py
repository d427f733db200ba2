"""What a person sees in the terminal: the only folder that imports ``rich``."""
