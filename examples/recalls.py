"""What does an agent remember? Draw an episode of a published agent, and look its recalls up in the tape.

python examples/recalls.py
"""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # not needed once mnm-rl is installed: import mnm_rl

from agents.api import Agent
from envs import held_out_seed, make_shown
from recall.record.tape import Tape
from recall.render.outputs import Outputs, render_recalls
from recall.scores.recalls import recalls_of

SIGNS = 16


def main(name: str = "doors-mnm-p", folder: str = "runs/recalls") -> float:
    agent = Agent.load(name)
    config = agent.config
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    outputs = Outputs(path / "recall.gif", path / "recall.html", path / "episode.npz")
    render_recalls(
        agent.model,
        lambda: make_shown(config.env, config.env_arguments()),
        [held_out_seed(0, 0)],
        outputs,
        core=config.core,
    )

    tape = Tape.load(path / "episode.npz")
    (seen,) = tape.observation.values()
    # A room shows its sign, and beside it the sign of the room before, whose right door is told now.
    sign, sign_before = seen[:, :SIGNS].argmax(1), seen[:, SIGNS : 2 * SIGNS].argmax(1)
    recalls = recalls_of(tape, top_k=1)
    right = []
    for t in range(2 * SIGNS, tape.steps):  # the last round: every sign has been answered twice
        (first,) = recalls[t].writes
        right.append(bool(sign_before[first] == sign[t]))
        print(f"step {t}: sign {sign[t]}, recalls step {first}, where sign {sign_before[first]} was answered")
    print(f"the first recall is an answer to the present sign in {sum(right)} of {len(right)} rooms")
    return sum(right) / len(right)


if __name__ == "__main__":
    main()
