"""What a study's folder holds: where each file is, the journal and what it adds up to, checkpoints, provenance."""
