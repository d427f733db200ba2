"""What a person looks at when a study is over: its page, and the figures on it."""
