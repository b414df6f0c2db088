"""What RecBole 1.2.1 needs to train in several processes: process groups on CPUs, gradients, losses, checkpoints.

Each patch does nothing in a single process. `process_shares.py` has the rows that each process takes and how results
are combined; `process_failures.py`, how the death of a process is reported.

A rank is the number of a process among those on all hosts: RecBole's `group_offset` + `local_rank`.
"""

import copy
import datetime
import functools
import os

from recbole_glintru.compat.import_hooks import after, rebind
from recbole_glintru.settings import number

PROCESS_TIMEOUT = 600.0  # seconds; longer than a rank ever waits for one that is alive

# Keeps Gloo's groups alive as long as the process. Otherwise DistributedDataParallel would hold the last reference,
# freed when `run_recbole` returns. The main thread would then wait, holding the GIL, for the group's own threads, and
# these may need the GIL to free what they have sent. Seen with PyTorch 2.13: the process never ends.
_GROUPS = []


def several(config) -> bool:
    """Whether a configuration belongs to one of several processes."""
    return config["single_spec"] is False


# ----------------------------------------------------------------------------------------------------- process groups


@after("recbole.config.configurator")
def processes_meet(configurator) -> None:
    """The processes of `--nproc` and `--world_size` form one group: NCCL on GPUs, gloo on CPUs if there are none.

    Without: `Config._init_device` asserts as many GPUs as processes and starts NCCL (configurator.py:496-511), so that
    nothing runs in several processes on a machine without GPUs. GPUs are used unless there are none, `gpu_id` is empty,
    or `use_gpu` is False. RecBole ignores that key, and turns a `gpu_id` from a YAML list, `[0, 1]`, into the name of a
    GPU that does not exist; both are corrected here, in a single process too.

    A rank waits for another for at most `process_timeout` seconds, 600 by default. On CPUs the ranks of one host share
    its threads, unless OMP_NUM_THREADS sets the number for each.
    """
    init_device = configurator.Config._init_device

    @functools.wraps(init_device)
    def _init_device(self):
        settings = self.final_config_dict
        timeout = _timeout(settings)
        if "local_rank" not in settings:
            settings["gpu_id"] = _named(settings["gpu_id"])
            init_device(self)
            return _obey_use_gpu(settings)
        on_gpus = uses_gpus(settings, settings["nproc"])
        import torch

        torch.distributed.init_process_group(
            backend="nccl" if on_gpus else "gloo",
            rank=settings["local_rank"] + settings["offset"],
            world_size=settings["world_size"],
            init_method=f"tcp://{settings['ip']}:{settings['port']}",
            timeout=datetime.timedelta(seconds=timeout),
        )
        if on_gpus:
            torch.cuda.set_device(settings["local_rank"])
        else:
            _GROUPS.append(torch.distributed.group.WORLD)
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(max(1, torch.get_num_threads() // settings["nproc"]))
        device = torch.device("cuda", settings["local_rank"]) if on_gpus else torch.device("cpu")
        settings.update(device=device, single_spec=False)
        if settings["local_rank"] != 0:
            settings.update(state="error", show_progress=False, verbose=False)

    configurator.Config._init_device = _init_device


def uses_gpus(settings, nproc: int) -> bool:
    """Whether the `nproc` processes of this host have a GPU each; without usable GPUs they run on CPUs.

    Raises:
        ValueError: there are GPUs, but fewer than processes.
    """
    gpus = _named(settings["gpu_id"])
    os.environ["CUDA_VISIBLE_DEVICES"] = settings["gpu_id"] = gpus  # as RecBole does, before a GPU is first used
    import torch

    if not gpus or settings.get("use_gpu") is False or not torch.cuda.is_available():
        return False
    number_of_gpus = min(len(gpus.split(",")), torch.cuda.device_count())
    if number_of_gpus < nproc:
        raise ValueError(
            f"gpu_id={gpus!r}: {number_of_gpus} GPU for {nproc} processes. Each needs its own; with `use_gpu: False` "
            "they run on CPUs."
        )
    return True


def _obey_use_gpu(settings) -> None:
    """Apply `use_gpu: False` in a single process."""
    import torch

    if settings.get("use_gpu") is False:
        settings["device"] = torch.device("cpu")


def _named(gpus) -> str:
    """`gpu_id` in CUDA's format: "0,1" for (0, 1) and [0, 1]."""
    return ",".join(map(str, gpus)) if isinstance(gpus, (tuple, list)) else str(gpus)


def _timeout(settings) -> float:
    if settings.get("process_timeout") is None:
        return PROCESS_TIMEOUT
    return number(settings, "process_timeout", least=1)


# ----------------------------------------------------------------------------------------------------------- training


@after("recbole.trainer.trainer")
def cpu_models_are_distributed(trainer) -> None:
    """A model on the CPU is wrapped in DistributedDataParallel without a device, and its BatchNorms are left alone.

    Without: `device_ids=[local_rank]` is refused for a model on the CPU (trainer.py:63), and SyncBatchNorm, which
    replaces BatchNorm (trainer.py:61), accepts only CUDA tensors. On CPUs, therefore, each rank normalises its own
    share of a batch, and the running statistics are those of rank 0. No model of this package has a BatchNorm.
    """
    init = trainer.AbstractTrainer.__init__

    @functools.wraps(init)
    def __init__(self, config, model):
        if not several(config) or config["device"].type != "cpu":
            return init(self, config, model)
        self.config, self.model = config, model
        self.distributed_model = trainer.DistributedDataParallel(model)

    trainer.AbstractTrainer.__init__ = __init__


@after("recbole.trainer.trainer")
def losses_are_of_all_ranks(trainer) -> None:
    """The training loss of an epoch is the mean over the ranks, that is, over the whole batches.

    Without: each rank sums the losses of its own share (trainer.py:250-259), and rank 0 logs its own sum as the loss.
    Gradients are averaged in either case.
    """
    train = trainer.Trainer._train_epoch

    @functools.wraps(train)
    def _train_epoch(self, *args, **kwargs):
        loss = train(self, *args, **kwargs)
        if not several(self.config) or loss is None:
            return loss
        torch = trainer.torch
        total = torch.tensor(loss, dtype=torch.float64).to(self.device)
        torch.distributed.all_reduce(total)
        mean = (total / torch.distributed.get_world_size()).tolist()
        return tuple(mean) if isinstance(loss, tuple) else mean

    trainer.Trainer._train_epoch = _train_epoch


# -------------------------------------------------------------------------------------------------------------- files


@after("recbole.utils.utils")
def folders_may_be_there(utils) -> None:
    """`ensure_dir` accepts that another process has just made the folder.

    Without: RecBole checks first and makes the folder afterwards (utils.py:52); two ranks that start together both find
    no `log` or `saved`, and the slower one ends in `FileExistsError`.
    """
    rebind(utils.ensure_dir, functools.wraps(utils.ensure_dir)(lambda dir_path: os.makedirs(dir_path, exist_ok=True)))


@after("recbole.trainer.trainer")
def checkpoints_have_one_name(trainer) -> None:
    """Every rank uses rank 0's name for the checkpoint.

    Without: each rank makes the name from its own clock, in seconds (trainer.py:132), and looks for a file that does
    not exist whenever the second changes between two ranks.
    """
    init = trainer.Trainer.__init__

    @functools.wraps(init)
    def __init__(self, config, model):
        init(self, config, model)
        if several(config):
            name = [self.saved_model_file]
            trainer.torch.distributed.broadcast_object_list(name, src=0)
            self.saved_model_file = name[0]

    trainer.Trainer.__init__ = __init__


@after("recbole.trainer.trainer")
def checkpoints_are_written_whole(trainer) -> None:
    """A checkpoint of several processes appears complete under its name, and does not mention the processes.

    Without: the first rank of every host writes (trainer.py:296), into the same file if the hosts share a folder;
    and the saved configuration keeps `single_spec: False`, so that `load_data_and_model`, in a single process,
    ends in `Default process group has not been initialized` (abstract_dataloader.py:60).
    """
    save = trainer.Trainer._save_checkpoint

    @functools.wraps(save)
    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        if not several(self.config) or self.config["local_rank"] != 0:
            return save(self, epoch, verbose=verbose, **kwargs)
        file = kwargs.pop("saved_model_file", self.saved_model_file)
        partial = f"{file}.{trainer.torch.distributed.get_rank()}"
        config, self.config = self.config, _of_one_process(self.config)
        try:
            save(self, epoch, verbose=False, saved_model_file=partial, **kwargs)
        finally:
            self.config = config
        os.replace(partial, file)
        if verbose:
            self.logger.info(f"{trainer.set_color('Saving current', 'blue')}: {file}")

    trainer.Trainer._save_checkpoint = _save_checkpoint


def _of_one_process(config):
    """A copy of a configuration, as a single process would have it."""
    single = copy.copy(config)
    settings = {**config.final_config_dict, "single_spec": True, "local_rank": 0}
    single.final_config_dict = {
        key: value
        for key, value in settings.items()
        if key not in ("nproc", "world_size", "offset", "ip", "port", "process_timeout")
    }
    return single


@after("recbole.trainer.trainer")
def checkpoints_are_read_once_written(trainer) -> None:
    """`evaluate` loads the best model only once all ranks, including the writing one, have got that far.

    Without: the others open the file (trainer.py:583) while rank 0 is still writing it: it is absent or truncated.
    """
    evaluate = trainer.Trainer.evaluate

    @functools.wraps(evaluate)
    def evaluate_written(self, eval_data, load_best_model=True, *args, **kwargs):
        if load_best_model and several(self.config):
            trainer.torch.distributed.barrier()
        return evaluate(self, eval_data, load_best_model, *args, **kwargs)

    trainer.Trainer.evaluate = evaluate_written


@after("recbole.data.dataset.dataset")
def datasets_are_saved_whole(dataset) -> None:
    """With `save_dataset` the file of several processes appears complete under its name.

    Without: every rank writes the same file (dataset.py:1885), and one that comes later finds it (utils.py:59) and
    reads it while it is incomplete.
    """
    save, torch = dataset.Dataset.save, dataset.torch

    @functools.wraps(save)
    def save_whole(self):
        if not several(self.config):
            return save(self)
        name = f"{self.config['dataset']}-{type(self).__name__}.pth"
        file = os.path.join(self.config["checkpoint_dir"], name)
        dataset.ensure_dir(self.config["checkpoint_dir"])
        partial = f"{file}.{torch.distributed.get_rank()}"
        with open(partial, "wb") as stream:
            dataset.pickle.dump(self, stream)
        os.replace(partial, file)

    dataset.Dataset.save = save_whole
