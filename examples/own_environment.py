"""Train on an environment class of your own, look at it, and use the agent: no id, no registration.

python examples/own_environment.py
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # not needed once mnm-rl is installed: import mnm_rl

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.api import train


class Echo(gymnasium.Env):
    """A symbol is shown once; after `delay` empty steps the right answer is that symbol."""

    observation_space = spaces.Discrete(4)
    action_space = spaces.Discrete(3)
    observation_names = ("nothing", "red", "green", "blue")

    def __init__(self, delay: int = 3) -> None:
        self.delay = delay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.symbol, self.steps = int(self.np_random.integers(3)), 0
        return self.symbol + 1, {}

    def step(self, action):
        self.steps += 1
        over = self.steps > self.delay
        right = over and action == self.symbol
        return 0, float(right), over, False, {"is_success": right} if over else {}


def main(total_steps: int = 30_000, run_dir: str = "runs/echo") -> float:
    agent = train(
        env=Echo, core="lstm", total_steps=total_steps, num_envs=16, rollout_steps=16, run_dir=run_dir
    )
    env, state, returns = Echo(), None, []
    for episode in range(20):
        observation, _ = env.reset(seed=episode)
        is_first, reward, total, over = True, 0.0, 0.0, False
        while not over:
            action, state = agent.predict(observation, state, is_first, reward)
            observation, reward, terminated, truncated, _ = env.step(action)
            is_first, total, over = False, total + reward, terminated or truncated
        returns.append(total)
    print(f"mean return of 20 episodes: {np.mean(returns):.2f}")
    return float(np.mean(returns))


if __name__ == "__main__":
    main()
