"""Play a published agent in your own loop, and save its step for a program that has only PyTorch.

python examples/deploy.py
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # not needed once mnm-rl is installed: import mnm_rl

import torch

from agents.api import Agent


def main(path: str = "memory-s13-lstm", exported: str = "step.pt2") -> float:
    agent = Agent.load(path)
    env = agent.make_env()
    observation, info = env.reset(seed=0)
    state, reward, total, over = agent.initial_state(), 0.0, 0.0, False
    while not over:
        action, state = agent.predict(observation, state, reward=reward, info=info)
        observation, reward, terminated, truncated, info = env.step(action)
        total, over = total + reward, terminated or truncated
    print(f"{path}: return {total:.2f}")

    step = agent.export(exported)
    program = torch.export.load(exported).module()
    arguments = step.example(agent.door)
    ours, theirs = step(*arguments), program(*arguments)
    print(f"{exported}: the same answer to within {(ours[0] - theirs[0]).abs().max():.1e}")
    return total


if __name__ == "__main__":
    main()
