"""MLflow: the projection of a journal, kept in step while a study runs, and its server."""
