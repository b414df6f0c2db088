"""Table 1: how many users, items and interactions the data sets have once RecBole has read and filtered them."""

from pathlib import Path

from recbole_glintru.launch import protocol
from recbole_glintru.launch.configuration import command_line, merged_settings
from recbole_glintru.launch.data import find_data
from reproduction import grids

IN_THE_PAPER = ("ml-1m", "amazon-beauty", "amazon-video-games")
COLUMNS = ("users", "items", "interactions", "average length", "sparsity")


def count(dataset: str, applied: str, data_path: Path) -> list[float]:
    """Those of one data set, as in `COLUMNS`; users and items with RecBole's padding row, as the paper counts them.

    Raises:
        UserError: the data are missing.
    """
    from recbole.data import create_dataset

    with command_line([]), protocol.as_config_files(applied, "GLINTRU") as files:
        config = merged_settings("GLINTRU", dataset, files, {"data_path": str(data_path.resolve())})
        find_data(config)
        data = create_dataset(config)
    users, items, interactions = data.user_num, data.item_num, data.inter_num
    return [users, items, interactions, interactions / (users - 1), 100 * (1 - interactions / users / items)]


def write(applied: dict[str, str], data_path: Path, results: Path) -> str:
    """Write `<results>/table1.md`, and return it.

    Args:
        applied: data set -> the protocol whose filters are applied.
    """
    lines = [f"| | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    for dataset, name in applied.items():
        lines.append(_line(dataset, count(dataset, name, data_path)))
        if name in grids.PAPER["table1"]:
            lines.append(_line(f"{dataset}, paper", grids.PAPER["table1"][name]))
    text = "# Table 1: Data\n\nUsers and items are counted with RecBole's padding row.\n\n" + "\n".join(lines) + "\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / "table1.md").write_text(text, encoding="utf-8")
    return text


def _line(name: str, numbers: list[float]) -> str:
    users, items, interactions, length, sparsity = numbers
    return f"| {name} | {users:,} | {items:,} | {interactions:,} | {length:.2f} | {sparsity:.2f} % |"
