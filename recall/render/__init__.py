"""Recalls as pictures: animation, viewer page, similarity maps."""
