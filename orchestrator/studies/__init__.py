"""What is asked: a study and where its words came from, the tasks it may name, and the plan that it comes to."""
