"""Experiments that could show that recalls mean nothing."""
