"""A plain script's LSTM agent, wrapped so that it can be evaluated and asked what it remembers.

    python evaluate.py --agent examples.lstm_agent:make_agent --env mnm/TMaze-v0 --html recall.html
    ... --agent-kwargs '{"weights": "lstm.pt"}'           the state_dict that your script saved

`LSTMAgent` stands for the network of your own training script; `make_agent` and the two methods below it are all
that evaluation, GIF, page, tape and recall check need (`agents/elsewhere.py`).
"""

import torch
from torch import nn


class LSTMAgent(nn.Module):
    """Encoder, LSTM, actor and critic, as in many single-file implementations."""

    def __init__(self, inputs: int, actions: int, size: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(inputs, size), nn.Tanh())
        self.lstm = nn.LSTM(size, size)
        self.actor, self.critic = nn.Linear(size, actions), nn.Linear(size, 1)


class Wrapped(LSTMAgent):
    """The protocol: two methods, states batch first."""

    def initial_state(self, batch_size):
        zeros = torch.zeros(batch_size, self.lstm.hidden_size, device=self.critic.weight.device)
        return zeros, zeros

    def step(self, obs, state, is_first):
        hidden = self.encoder(obs.float())
        out, (h, c) = self.lstm(hidden[None], tuple(part[None].contiguous() for part in state))
        distribution = torch.distributions.Categorical(logits=self.actor(out[0]))
        return distribution, self.critic(out[0]), (h[0], c[0])


def make_agent(observation_space, action_space, weights=None, seed=0):
    torch.manual_seed(seed)
    agent = Wrapped(int(torch.tensor(observation_space.shape).prod()), int(action_space.n))
    if weights is not None:
        agent.load_state_dict(torch.load(weights, weights_only=True))
    return agent
