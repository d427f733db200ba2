"""What is studied: one module or package a task, each ending in ``TASK = Task(...)``."""
