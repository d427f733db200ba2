"""Studies and data at a URL: files that are brought there and back, who may write, what each machine keeps of it."""
