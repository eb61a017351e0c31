"""Agents: encoder, memory core and heads, trained by A2C or PPO."""
