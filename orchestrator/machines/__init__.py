"""The machines: Ray on them, whose turn it is; a cluster that is owned: its file, SSH to its hosts, what they get."""
