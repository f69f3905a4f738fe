"""How far the weights have moved, on two real ranks whose parameters stay gathered after a forward, or change places."""

from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from tiny import write_model

FSDP = "actor_rollout_ref.actor.fsdp_config"
CASES = {
    "gathered": [f"{FSDP}.reshard_after_forward=False"],
    "offloaded": [f"{FSDP}.param_offload=True", f"{FSDP}.optimizer_offload=True"],
}


def rank_main(rank: int, world: int, model: Path, overrides: list[str], result: Path) -> None:
    from cluster import composed

    from l2t_verl.plugin.driver.changes import provide_reference_config
    from l2t_verl.plugin.workers import worker as module
    from l2t_verl.plugin.workers.displacement import local_part
    from l2t_verl.plugin.workers.worker import L2TWorker

    config = composed(f"actor_rollout_ref.model.path={model}", *overrides)
    provide_reference_config(config)
    worker, reference = (L2TWorker(config.actor_rollout_ref, role=role) for role in ("actor", "ref"))
    worker.init_model()
    reference.init_model()
    worker.ref = reference.ref
    engine = worker.actor.engine

    def parts() -> list[torch.Tensor]:
        return [local_part(p).cpu().clone() for p in engine.module.parameters()]

    def moved_elsewhere() -> None:
        """As offloading does: the same values in other memory."""
        for parameter in engine.module.parameters():
            local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            local.data = local.data.clone()
        engine.module._apply(lambda tensor: tensor.clone())

    found, before = {}, parts()
    worker.l2t_log_probs([[5, 6, 7, 8]])
    modes = set()

    def watched(parameter: torch.Tensor) -> torch.Tensor:
        modes.add((engine.mode, reference.ref.engine.mode))
        return local_part(parameter)

    module.local_part = watched
    found["at the start"] = worker.l2t_displacement()
    module.local_part = local_part
    found["modes"] = modes
    worker.l2t_perturb_weights(0.1)
    worker.l2t_log_probs([[5, 6, 7, 8]])
    found["perturbed"] = worker.l2t_displacement()
    if "offload" in " ".join(overrides):
        moved_elsewhere()
    worker.l2t_log_probs([[5, 6, 7, 8]])
    worker.l2t_restore_weights()
    found["restored"] = all(torch.equal(old, new) for old, new in zip(before, parts(), strict=True))
    found["mode"] = engine.mode
    torch.save(found, result / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", CASES)
def test_displacement_is_read_where_the_parameters_are(name, tmp_path):
    model = write_model(tmp_path / "model")
    run_ranks(rank_main, 2, model, CASES[name], tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)]
    for found in ranks:
        assert found["at the start"] == 0
        assert found["perturbed"] == pytest.approx(0.1, rel=0.05)  # noise of a tenth of each parameter's root mean square
        assert found["restored"]
        assert found["mode"] is None
        assert found["modes"] == {("eval", "eval")}  # on a GPU, offloaded parameters are there only then
    assert ranks[0] == ranks[1]
