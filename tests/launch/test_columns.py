"""Columns of other names, columns that are left out, histories of the user's own: from the command line to a test."""

import pytest

from recbole_glintru.launch import command

USERS, PARTS = 12, ["train", "valid", "test"]
PLAIN = ["user_id", "item_id", "timestamp"]
SHORT = ["--protocol=none", "--epochs=1", "--hidden_size=16", "--topk=[3]", "--valid_metric=MRR@3", "--n_heads=4"]


def trained(*settings):
    """The result of the command."""
    return command.run(*command.parse(["--dataset=own", *settings, *SHORT]))["test_result"]


def interactions(file, header, row):
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row(f"u{user}", f"i{(5 * user + step) % 9}", step) for user in range(USERS) for step in range(5)]
    file.write_text("\n".join([header, *lines]) + "\n")


def histories(folder, item="item_id"):
    """Three files, in which the targets are in another order than the items of the histories."""
    folder.mkdir(parents=True)
    for part in PARTS:
        rows = [f"u{user}\ti{user % 5} i{user % 7} i8\ti{8 - user % 9}" for user in range(USERS)]
        header = f"user_id:token\t{item}_list:token_seq\t{item}:token"
        (folder / f"own.{part}.inter").write_text("\n".join([header, *rows]) + "\n")


def test_columns_of_other_names(workplace):
    """As README says."""
    file = workplace / "dataset" / "own" / "own.inter"
    interactions(file, "user:token\titem:token\ttime:float", lambda *row: "\t".join(map(str, row)))
    names = ["--USER_ID_FIELD=user", "--ITEM_ID_FIELD=item", "--TIME_FIELD=time"]
    assert "mrr@3" in trained(*names)


def test_columns_that_are_left_out(workplace):
    file = workplace / "dataset" / "own" / "own.inter"
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    interactions(file, header, lambda user, item, step: f"{user}\t{item}\tnone\t{step}")  # it cannot be read
    assert "mrr@3" in trained("--unload_col={'inter': ['rating']}")


@pytest.mark.parametrize("item", ["item_id", "item"])
def test_histories_of_the_users_own(workplace, item):
    histories(workplace / "dataset" / "own", item)
    split = [f"--benchmark_filename={PARTS}", f"--alias_of_item_id=['{item}_list']", f"--ITEM_ID_FIELD={item}"]
    assert "mrr@3" in trained(*split)


def test_an_item_is_the_same_in_a_history(workplace):
    from recbole.data import create_dataset, data_preparation

    from recbole_glintru.launch.configuration import merged_settings

    histories(workplace / "dataset" / "own")
    settings = {"benchmark_filename": PARTS, "alias_of_item_id": ["item_id_list"]}
    config = merged_settings("GLINTRU", "own", [], settings)
    data = data_preparation(config, create_dataset(config))[0].dataset
    past, target = data.inter_feat["item_id_list"][0], data.inter_feat["item_id"][0]
    assert data.id2token("item_id", past).tolist() == ["i0", "i0", "i8"] and past[2] == target


@pytest.mark.parametrize(
    "settings, columns",
    [
        (["--unload_col=None"], {"inter": PLAIN, "item": ["item_id", "categories", "brand"]}),
        (["--ITEM_ID_FIELD=id"], {"inter": ["user_id", "id", "timestamp"], "item": ["id", "categories", "brand"]}),
        (["--unload_col={'inter': ['rating']}"], None),
        ([f"--load_col={{'inter': {PLAIN}}}"], {"inter": PLAIN}),
    ],
)
def test_columns_of_a_protocol(launch, tmp_path, settings, columns):
    file = tmp_path / "dataset" / "own" / "own.inter"
    header = "user_id:token\titem_id:token\tid:token\ttimestamp:float"
    interactions(file, header, lambda user, item, step: f"{user}\t{item}\t{item}\t{step}")
    launched = launch("--dataset=own", "--model=SMLP4Rec", "--protocol=amazon-beauty", *settings)
    assert launched.ran and launched.config["load_col"] == columns
