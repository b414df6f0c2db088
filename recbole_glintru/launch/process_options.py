"""The options for several processes, how many and where they connect, checked before the run.

RecBole starts `nproc` processes on this host, the ranks from `group_offset` on of `world_size` in total; without
`world_size` there are no others. They connect to `ip`, the host of rank 0, on `port`.
"""

import socket

from recbole_glintru.compat.processes import uses_gpus

PORT = 5678  # RecBole's default; several hosts must know it before they can communicate


def check(options) -> None:
    """Check that the numbers are consistent.

    Raises:
        ValueError: they are not; the message names the option.
    """
    if options.nproc < 1:
        raise ValueError(f"--nproc={options.nproc}: must be at least 1.")
    if options.world_size != -1 and options.world_size < 1:
        raise ValueError(f"--world_size={options.world_size}: must be the number of processes on all hosts together.")
    ranks = options.nproc if options.world_size == -1 else options.world_size
    if not 0 <= options.group_offset <= ranks - options.nproc:
        raise ValueError(
            f"--group_offset={options.group_offset}: the ranks of --nproc={options.nproc} processes from there on must "
            f"lie between 0 and {ranks - 1}, since there are {ranks} processes (--world_size)."
        )
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port={options.port}: must be from 1 to 65535.")


def port(options, settings) -> str:
    """The port on which the processes connect: the user's, else a free one, or RecBole's default for several hosts.

    Args:
        settings: RecBole's `Config`.

    Raises:
        ValueError: there are fewer GPUs than processes here, or the port is taken.
    """
    processes = options.nproc > 1 or options.world_size > 0
    number = PORT if options.port is None else options.port
    if processes:
        uses_gpus(settings.final_config_dict, options.nproc)
        if options.group_offset == 0 and options.port is None and options.world_size in (-1, options.nproc):
            number = _listen(0)
        elif options.group_offset == 0:
            try:
                _listen(number)
            except OSError as error:
                raise ValueError(f"--port={number}: cannot be listened on: {error.strerror}.") from None
    return str(number)


def _listen(number: int) -> int:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # even if a run has just ended there
        listening.bind(("", number))
        return listening.getsockname()[1]
