"""Which earlier write matters to what is read now, and what the agent would do without it."""
