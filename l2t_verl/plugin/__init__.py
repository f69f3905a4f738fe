"""The only package that touches verl, in folders by the process that its code runs in.

One step, in order:

1. `rollout/` (vLLM servers, agent loops, reward workers): samples, grades, cuts into episodes; samples answers where J is
   made of them. `transfer.py` names the socket that new weights come by.
2. `driver/` (verl's TaskRunner): `trainer.py` and `step.py` ask the workers for old log-probs and answer scores.
3. `workers/` (one process per GPU): J after each episode, or derivatives of the log-probs, from the engine.
4. `driver/`: `step.py` makes gains, penalty and process rewards of them (`rewards.py`).
5. `driver/`: `estimator.py` gives the advantages that verl's actor update takes.
6. `driver/`: `metrics.py`, `records.py`, `live.py` and `checkpoints.py` report, dump and keep.

Before the first one, `driver/refusals.py` and `data.py` refuse, `changes.py` changes verl's configuration, `cluster.py`
looks at the nodes and `ports.py` says where workers meet; `liveness.py` watches from then on. Every process begins in
`entry.py`. What two of them share is in `fields.py` (what travels), `settings.py` (what the configuration says),
`stopping.py` (SIGTERM) and `verl_scorers.py`.
`cpu/` is there for machines without a GPU.

A port to another trainer starts here (verl's main may drop the V1 trainer: its RFC 6988): `WRAPPED` and `READ` are all that
the plugin needs of one. tests/test_contracts.py holds them to the code, and has the parameters, the lines of verl that each
of them stands on, and what is needed of workers, rollouts and engines.
"""

# Methods of verl's trainer that L2T wraps, in the order in which a run calls them, and what for
WRAPPED = {
    "__init__": "the configuration is checked first, and the trainer's mode set back to verl's own name",
    "_init_resource_pool_mgr": "our worker in the place of verl's; a reference policy where the penalty needs one",
    "_init_dataloader": "the data is looked at before anything heavy starts",
    "_setup": "the cluster is checked before a worker is placed, and the workers' version and engine after",
    "_build_replay_buffer": "the one wait of a step, during which dead servers and workers are noticed",
    "_load_checkpoint": "the start is kept for derivatives; λ comes back",
    "on_init_end": "the rollout has the trainer's weights: on the CPU platform, proof that it computes with them",
    "fit": "a dead server or worker ends the run with its error; the metrics of the steps before a restart are set aside",
    "on_train_begin": "verl's logger has emptied its file: they are given back",
    "on_step_begin": "the step before is logged: its checkpoint counts, and the oldest ones go",
    "_compute_old_log_prob": "its forward also gives the answer scores; after it, rows hold old log-probs",
    "_compute_advantage": "rows hold log-probs and outcomes: process rewards, then verl calls the estimator",
    "_dump_generations": "each rollout's episodes beside what verl dumps",
    "_write_generations": "where the disk has no room, the error says for what",
    "on_step_end": "SIGTERM ends the run after this step, with a checkpoint",
    "_validate": "its score says which checkpoint is the best",
    "_save_checkpoint": "λ before the file that marks a checkpoint as whole; the mark is held back until the step is over",
}

# Attributes of verl's trainer that L2T reads or changes
READ = {
    "config": "verl's whole configuration",
    "role_worker_mapping": "role → Ray class of its worker; changed before the workers are placed",
    "mapping": "role → pool of its GPUs; changed with it",
    "use_reference_policy": "whether a step computes reference log-probs; switched on",
    "processor": "of the model; one with positions in three dimensions is refused",
    "tokenizer": "of the model",
    "train_dataset": "whose ground truths are tried at the start",
    "val_dataset": "the same",
    "actor_rollout_wg": "the actor's workers, on which ours add calls of their own",
    "checkpoint_manager": "sends weights to the rollout and puts it to sleep",
    "get_llm_client": "generates by the rollout: the check of the weights",
    "_rollout_server_managers": "the rollout's servers, whose health is asked for",
    "parameter_sync_step": "steps between two weight updates: which rows are stale",
    "global_steps": "the number of the step",
    "total_training_steps": "the number of the last one; brought forward where the run is asked to end",
    "_dump_futures": "rollouts that are still being written",
    "timing_raw": "seconds of a step's parts",
    "logger": "its back ends, for distributions and for the metrics before a restart",
}
