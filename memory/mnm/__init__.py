"""Metalearned Neural Memory: the memory, its write rules, the reference core and the fast one."""
