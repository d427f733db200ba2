"""Other machines: a cluster's file, SSH to its hosts, what is sent to them, and what they do when they are asked."""
