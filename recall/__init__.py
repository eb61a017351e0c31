"""Recall: what an agent wrote to its memory, which of it matters now, and pictures of both."""
