"""Everything that a training run can be told: a frozen dataclass that is also its command line, and presets of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agents.core_options import CoreOptions
from agents.encoder_names import BYTES, ENCODERS, parse_encoder
from agents.options import check_at_least, check_numbers, json_object, option, suggestion
from envs.errors import UserError
from envs.wrapper_names import WRAPPERS, parse_wrapper, skip_frames, stack_frames
from memory.options import architecture_of

MOST_STEPS = 30_000
"""Steps after which an evaluation cuts an episode unless more are asked for: some policies never end theirs."""

BackendName = Literal["auto", "native", "envpool", "sync", "async"]


@dataclass(frozen=True)
class TrainConfig(CoreOptions):
    """The effective configuration of a run; stored in its directory and in every checkpoint."""

    env: str = option("mnm/GridMaze9-v0", "environment id, or module:EnvId to import a module first")
    env_kwargs: str = option("{}", "arguments of the environment as a JSON object", metavar="JSON")
    wrapper: tuple[str, ...] = option(
        (),
        "put the environment in a wrapper, module:Class or 'module:Class {\"argument\": value}'; may be repeated, "
        "innermost first; none: no wrapper",
        metavar="WRAPPER",
    )
    frame_skip: int = option(
        1, "repeat every action for this many steps and add up the rewards, inside all wrappers"
    )
    frame_stack: int = option(1, "show the last observations, this many, as one; outside all wrappers")
    max_episode_steps: int | None = option(
        None, "truncate episodes after this many of the environment's own steps (None: as it is registered)"
    )
    algo: Literal["ppo", "a2c"] = option("ppo", "algorithm")
    total_steps: int = option(
        1_000_000, "number of frames to train for (valid steps of all environments together)", most=10**15
    )
    enough_success: float | None = option(
        None,
        "stop once this fraction of the last 100 episodes succeeded at two consecutive log points",
    )
    num_envs: int = option(16, "environments stepped in parallel", most=100_000)
    rollout_steps: int = option(
        64, "steps per environment per rollout; the length of truncated BPTT", most=10**6
    )
    seed: int = option(0, "seed of weights, environments, actions and minibatches")
    backend: BackendName = option("auto", "environment backend")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device of the agent and the rollouts")
    run_dir: str | None = option(None, "run directory; default runs/ENV-CORE-ALGO-SEED", metavar="DIR")
    warm_start: str | None = option(
        None,
        "initialize the weights from this run, checkpoint or published agent; frames count from 0",
        metavar="PATH",
    )
    log_every: int = option(5, "updates between log points (rows of metrics.csv)")
    checkpoint_every: int = option(50, "updates between checkpoints")
    eval_every: int = option(
        0,
        "frames between greedy evaluations on held-out levels, which then also choose the checkpoint best (0: none)",
    )
    eval_episodes: int = option(20, "episodes of each of them")
    keep_checkpoints: int = option(2, "checkpoints that are kept, the latest and those before it", most=1000)
    env_timeout: float = option(
        300.0, "async: seconds that the worker processes of the environments may take for one step"
    )
    threads: int = option(
        1, "PyTorch threads on the CPU, where matrix products are small; 0 lets PyTorch choose", most=1024
    )

    encoder: str = option(
        "auto",
        f"encoder of pictures: {', '.join(ENCODERS)}, or of single observations by key, such as camera=nature,map=flat "
        "(auto: small from 36 x 36 pixels, fine below)",
        before=BYTES,
        metavar="NAME",
    )
    embedding_size: int = option(128, "size of the encoded observation", most=2**16)
    activation: Literal["auto", "relu", "tanh"] = option(
        "auto",
        "nonlinearity of the encoded observation (auto: tanh where all of it is normalized numbers, relu otherwise)",
        before="relu",
    )
    previous_inputs: bool = option(True, "give the agent its previous action and reward as extra inputs")

    learning_rate: float = option(1e-3, "learning rate of Adam", most=10.0)
    anneal: bool = option(False, "anneal the learning rate linearly to 0 over total-steps")
    gamma: float = option(0.99, "discount factor")
    gae_lambda: float = option(0.95, "lambda of generalized advantage estimation (1: Monte Carlo returns)")
    reward_scale: float = option(1.0, "factor on rewards for learning; reported returns are unscaled")
    epochs: int = option(4, "PPO: epochs per rollout (A2C: one)", most=10_000)
    minibatches: int | None = option(
        None,
        "PPO: minibatches per epoch, split over environments (None: 8, or one per environment; A2C: one)",
    )
    minibatch_cut: Literal["random", "even"] = option(
        "random",
        "PPO: how environments are assigned to minibatches: at random, or equally many from each rank",
    )
    clip: float = option(0.2, "PPO clipping range of the probability ratio")
    target_kl: float = option(
        0.1,
        "PPO: end an update at the minibatch where the policy has moved this far, in KL divergence from the one that "
        "acted (0: never)",
        before=0.0,
    )
    value_clip: float | None = option(None, "PPO value clipping range (None: no clipping)")
    value_coef: float = option(0.5, "coefficient of the value loss")
    entropy_coef: float = option(0.01, "entropy coefficient at the start")
    entropy_coef_final: float | None = option(None, "entropy coefficient at the end (None: constant)")
    normalize_observations: Literal["auto", "on", "off", "unbounded"] = option(
        "auto",
        "bring Box observations to mean 0 and deviation 1 by running statistics (auto: floats, unless bounded by about "
        "1; unbounded: floats without bounds)",
        before="off",
        renamed=("activation", {"auto": "unbounded"}),
    )
    normalize_rewards: bool = option(
        True, "divide rewards for learning by the running deviation of the discounted return", before=False
    )
    max_grad_norm: float = option(0.5, "maximum gradient norm")
    normalize_advantages: bool = option(True, "normalize advantages to mean 0 and standard deviation 1")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self)
        check_at_least(
            self, 1, "total_steps", "num_envs", "rollout_steps", "log_every", "checkpoint_every",
            "embedding_size", "epochs", "frame_skip", "frame_stack", "eval_episodes",
            "keep_checkpoints",
        )  # fmt: skip
        check_at_least(self, 0, "eval_every", "threads", "seed", "target_kl")
        if self.max_episode_steps is not None:
            check_at_least(self, 1, "max_episode_steps")
        object.__setattr__(self, "wrapper", tuple(self.wrapper))  # JSON has lists only
        for text in self.wrapper:
            parse_wrapper(text)
        parse_encoder(self.encoder)
        for name in ("gamma", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"--{name.replace('_', '-')} must lie in [0, 1], got {getattr(self, name)}")
        if self.enough_success is not None and not 0.0 < self.enough_success <= 1.0:
            raise UserError(f"--enough-success must lie in (0, 1], got {self.enough_success:g}")
        if self.env_timeout <= 0.0:
            raise UserError(f"--env-timeout must be positive, got {self.env_timeout:g}")
        if self.learning_rate <= 0.0 or self.max_grad_norm <= 0.0 or self.clip <= 0.0:
            raise UserError("--learning-rate, --max-grad-norm and --clip must be positive")
        if self.minibatches is not None:
            check_at_least(self, 1, "minibatches")
        if self.algo == "ppo" and self.minibatches is not None and self.minibatches > self.num_envs:
            raise UserError(
                f"--minibatches {self.minibatches} needs at least as many environments, got --num-envs "
                f"{self.num_envs}: minibatches are split over environments, never over time"
            )
        self.env_arguments()

    def passes(self) -> tuple[int, int]:
        """Epochs over a rollout, and minibatches of each."""
        if self.algo == "a2c":
            return 1, 1
        return self.epochs, min(8, self.num_envs) if self.minibatches is None else self.minibatches

    def env_arguments(self) -> dict[str, Any]:
        """What `make_vec` and `make_single` are told: --env-kwargs and the other options of the environment."""
        arguments = json_object("env-kwargs", self.env_kwargs)
        named = list(self.wrapper)
        if self.frame_skip > 1:
            named.insert(0, skip_frames(self.frame_skip))
        if self.frame_stack > 1:
            named.append(stack_frames(self.frame_stack))
        if named:
            arguments[WRAPPERS] = named
        if self.max_episode_steps is not None:
            arguments["max_episode_steps"] = self.max_episode_steps
        return arguments

    def least_memory(self) -> dict[str, float]:
        """Bytes that training takes at least, by what takes them."""
        hidden, width, number = self.hidden_size, self.memory_size, 4.0  # bytes
        state = {"mnm-g": 3 * width**2, "mnm-p": 3 * width**2, "hard": self.slots * width}.get(self.core, 0)
        return {
            # Weights, gradients and the two moments of Adam; three gates at least.
            f"--hidden-size {hidden}": 0 if self.core == "none" else 4 * number * 3 * hidden**2,
            f"--embedding-size {self.embedding_size}": 4 * number * self.embedding_size,
            f"--num-envs {self.num_envs} with the memory of each": number * self.num_envs * state,
            f"--rollout-steps {self.rollout_steps} of --num-envs {self.num_envs}": 32.0
            * self.rollout_steps
            * self.num_envs,
        }

    def directory(self) -> Path:
        """Where the run is kept."""
        if self.run_dir is not None:
            return Path(self.run_dir)
        name = f"{self.env}-{self.core}-{self.algo}-s{self.seed}"
        return Path("runs") / name.replace("/", "-").replace(":", "-")


ARCHITECTURE = (
    "env", "env_kwargs", "wrapper", "frame_skip", "frame_stack", "core", "core_kwargs", *architecture_of(CoreOptions),
    "encoder", "embedding_size", "activation", "previous_inputs", "reward_scale", "normalize_observations",
    "normalize_rewards",
)  # fmt: skip
"""Options that decide what the weights mean."""

FIXED_ON_RESUME = (*ARCHITECTURE, "max_episode_steps", "algo", "rollout_steps", "seed", "backend")
"""Options that a resumed run keeps; the others may be changed."""

MAZE: dict[str, Any] = {
    "env": "mnm/GridMaze9-v0",
    # The maze's observation already holds the previous action and reward.
    "previous_inputs": False,
    "reward_scale": 0.1,
    "num_envs": 64,
    "rollout_steps": 50,
    "minibatches": 4,
    "learning_rate": 3e-3,
    "anneal": True,
    "gamma": 0.95,
    "gae_lambda": 0.95,
    "log_every": 10,
    "normalize_rewards": False,
    "target_kl": 0.0,
}

MINIGRID_MEMORY: dict[str, Any] = {
    "env": "MiniGrid-MemoryS7-v0",
    # Left, right, forward: nothing else matters in these tasks.
    "env_kwargs": '{"actions": [0, 1, 2]}',
    "num_envs": 128,
    "rollout_steps": 128,
    # The five best trials of the search (benchmarks/studies/tune.py) have eight passes; four were the start.
    "epochs": 8,
    "minibatches": 8,
    "learning_rate": 1.5e-3,
    "anneal": False,
    # A policy that is certain early walks past the cue without looking at it, and never learns what it is for.
    "entropy_coef": 0.1,
    "entropy_coef_final": 0.005,
    "gamma": 0.995,
    "gae_lambda": 0.97,
    "value_coef": 0.25,
    "normalize_rewards": False,
    "target_kl": 0.0,
}

POPGYM: dict[str, Any] = {
    "env": "mnm/RepeatPrevious-v0",
    "num_envs": 64,
    "rollout_steps": 64,
    "minibatches": 8,
    "learning_rate": 2e-3,
    "anneal": True,
    "gamma": 0.9,
    "normalize_rewards": False,
    "target_kl": 0.0,
}
"""Tasks in the manner of POPGym: short episodes, a symbol per step, an answer that is due later."""

PAIR_BANDIT: dict[str, Any] = {
    "env": "mnm/PairBandit-v0",
    # The observation already holds the previous sign, action and reward.
    "previous_inputs": False,
    "total_steps": 500_000,
    "num_envs": 128,
    "rollout_steps": 48,
    "minibatches": 8,
    "learning_rate": 2e-3,
    "anneal": True,
    # An answer earns its reward at once: what comes later is noise to it.
    "gamma": 0.3,
    "entropy_coef": 0.03,
    # Keys and values see the sign and its answer directly, and need not wait for the controller to pass them on.
    "interaction_window": 1,
    "normalize_rewards": False,
    "target_kl": 0.0,
}
"""A memory in which many pairs are bound; an episode of 16 contexts and 3 rounds is one rollout."""

ATARI: dict[str, Any] = {
    "env": "ALE/Pong-v5",
    # The preprocessing skips frames itself; sticky actions (0.25) are an option of the environment.
    "env_kwargs": '{"frameskip": 1, "repeat_action_probability": 0.0}',
    "wrapper": ("gymnasium.wrappers:AtariPreprocessing",),
    "frame_stack": 4,
    "encoder": "nature",
    "num_envs": 8,
    "rollout_steps": 128,
    "minibatches": 4,
    "learning_rate": 2.5e-4,
    "anneal": True,
    "gamma": 0.99,
    "clip": 0.1,
    "log_every": 10,
    "normalize_rewards": False,
    "target_kl": 0.0,
}
"""The usual preprocessing: no-op starts, 4 frames per action, 84 x 84 grey, stacks of 4 (any `--env ALE/...-v5`)."""

TREASURE: dict[str, Any] = {
    **PAIR_BANDIT,
    "env": "mnm/TreasureMaze-v0",
    # The tour binds every object to its cell, a view of one cell leaves nothing to be found without memory, the shaping
    # pays for every step in the right direction, and patience has an agent that knows nothing practise more look-ups.
    "env_kwargs": '{"side": 9, "objects": 8, "tour": true, "view": 1, "shaping": 0.2, "max_steps": 64, "patience": 12}',
    "total_steps": 600_000,
    # A rollout is one episode, so that gradients lead from the last look-up back to the tour.
    "rollout_steps": 64,
    "num_envs": 64,
    "minibatches": 4,
    "learning_rate": 1e-3,
    "anneal": False,
    "gamma": 0.5,
    "interaction_window": 4,
}

ISLAND: dict[str, Any] = {
    **PAIR_BANDIT,
    "env": "mnm/IslandGraph-v0",
    # Five islands are not learnt from nothing in a million frames; an agent of three begins the next stage well.
    "env_kwargs": '{"islands": 3, "names": 5}',
    "total_steps": 700_000,
    # Whole episodes. What a way leads to is paid soon: with gamma 0.9 less is learnt.
    "rollout_steps": 30,
    "gamma": 0.5,
    "reward_scale": 0.1,
    "learning_rate": 1e-3,
    "anneal": False,
}

CLASSIC: dict[str, Any] = {
    "env": "CartPole-v1",
    # Returns of a hundred: unscaled, the error of the value function drowns the policy's gradient in what both share.
    "normalize_rewards": True,
    "normalize_observations": "auto",
    "activation": "auto",
    "target_kl": 0.1,
    "num_envs": 16,
    "rollout_steps": 64,
    "minibatches": 8,
    "learning_rate": 1e-3,
    "anneal": False,
    "gamma": 0.99,
}
"""Classic control, and whatever pays at every step for long."""

CONTINUOUS: dict[str, Any] = {
    **CLASSIC,
    "env": "Pendulum-v1",
    "normalize_observations": "on",
    # With a tanh seed 0 of Pendulum ended at -198, with a ReLU at -160.
    "activation": "relu",
    # Shorter rollouts, each passed over ten times, are learnt sooner and lost again: Pendulum ended at -352.
    "rollout_steps": 128,
    "target_kl": 0.0,
    "gamma": 0.95,
    "entropy_coef": 0.0,
    "epochs": 10,
}
"""Real-valued actions: what is learnt there is small corrections, in more passes over the same frames."""

PRESETS: dict[str, dict[str, Any]] = {
    "classic": CLASSIC,
    "continuous": CONTINUOUS,
    "maze": MAZE,
    "minigrid-memory": MINIGRID_MEMORY,
    "popgym": POPGYM,
    "pair-bandit": PAIR_BANDIT,
    "treasure": TREASURE,
    "island": ISLAND,
    "atari": ATARI,
    "demo": {
        **PAIR_BANDIT,
        "env": "mnm/DoorMaze-v0",
        # With six doors an agent that has forgotten chooses otherwise five times in six, and --check-recall can tell.
        "env_kwargs": '{"contexts": 8, "doors": 6}',
        "total_steps": 200_000,
        "num_envs": 64,
        "checkpoint_every": 20,
        # What single writes of one linear layer add to a read sums up, so that every recall can be told exactly. Such
        # writes are small at first: keys are to be large, and their own loss would shrink the target values to fit.
        "written_layers": "last",
        "interaction_gain": 3.0,
        "meta_coef": 0.0,
    },
}


def preset(name: str | None) -> TrainConfig:
    """The default configuration under the overlay `name`; None means the defaults alone."""
    if name is None:
        return TrainConfig()
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}{suggestion(name, PRESETS)}; valid: {', '.join(PRESETS)}")
    return dataclasses.replace(TrainConfig(), **PRESETS[name])
