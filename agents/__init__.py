"""Agents: encoder, memory core and heads, trained by A2C or PPO. Public names, each imported from its file:

    agents.api            train(config, env), Agent                for programs: docs/python_api.md
    agents.config         TrainConfig, PRESETS, preset(name)       what a run can be told
    agents.trainer        Trainer(config).run(), build_model       train, resume, log, save
    agents.model          ActorCritic: act, after, unroll          the agent, and the state it carries (AgentState)
    agents.distributions  actions_for(space) -> Actions, ActionDistribution
    agents.encoders       ObservationEncoder                       observations as vectors, by Gymnasium space
    agents.rollout        Collector, Rollout                       time steps of all environments
    agents.learner        Learner                                  one update from one rollout
    agents.losses         ppo_loss, a2c_loss, Targets              and agents.returns.gae: the mathematics
    agents.evaluation     load_agent(run_dir, ...)                 trained and published agents on held-out episodes
    agents.run_dir        RunDirectory                             its configuration, log and lock
    agents.checkpoint     save_checkpoint, load_checkpoint
    agents.profile        region(name), Stopwatch                  where the time goes

Nothing is imported here, so that a command which needs one file loads one file.
"""
