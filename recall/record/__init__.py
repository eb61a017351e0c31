"""What one episode wrote and read: the tape and what fills it."""
