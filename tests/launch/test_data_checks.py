"""A data set that cannot be learned from or evaluated as the settings say is named before training."""

import logging

import pytest
from launches import ROOT, run_python

from recbole_glintru.launch.configuration import merged_settings
from recbole_glintru.settings import raised_by_a_setting

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
SPLIT = {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full"}
TOP_3 = {"topk": [3], "valid_metric": "MRR@3"}


def write(folder, users=8, rows=6, items=5):
    """RecBole's file of a data set `own`, in which each user has `rows` interactions."""
    lines = [f"u{user}\ti{(3 * user + step) % items}\t{step}" for user in range(users) for step in range(rows)]
    folder = folder / "dataset" / "own"
    folder.mkdir(parents=True)
    (folder / "own.inter").write_text("\n".join([HEADER, *lines]) + "\n")


def prepare(model, **settings):
    """Up to where RecBole would make the model."""
    from recbole.data import create_dataset, data_preparation

    config = merged_settings(model, "own", [], {"check_data": True, **settings})
    return data_preparation(config, create_dataset(config))


@pytest.mark.parametrize(
    "model, settings, named",
    [
        ("GLINTRU", {}, r"topk=\[10\]: must be at most 5, the number of items"),
        ("SASRec", {"topk": [1, 6], "valid_metric": "MRR@1"}, r"topk=\[1, 6\]: must be at most 5,"),
        ("BPR", {}, r"topk=\[10\]: must be at most 5,"),
        ("GLINTRU", {"eval_args": {**SPLIT, "mode": "uni2"}}, r"topk=\[10\]: must be at most 5,"),
    ],
)
def test_there_are_items_for_topk(workplace, model, settings, named):
    write(workplace)
    with pytest.raises(ValueError, match=named):
        prepare(model, **settings)


@pytest.mark.parametrize(
    "model, settings",
    [
        ("GLINTRU", {"topk": [7], "valid_metric": "MRR@7"}),
        ("SASRec", {**TOP_3, "eval_args": {**SPLIT, "mode": "uni2"}}),
        ("SASRec", {"metrics": ["GAUC"], "valid_metric": "GAUC"}),  # of no topk
        ("BPR", {**TOP_3, "eval_args": {"split": {"RS": [1, 1, 1]}, "mode": "uni1"}}),  # two positives a user
    ],
)
def test_a_topk_that_can_be_had_is_left_alone(workplace, caplog, model, settings):
    write(workplace, items=7)
    assert len(prepare(model, **settings)) == 3 and "topk" not in caplog.text


@pytest.mark.parametrize("mode", ["uni1", {"valid": "full", "test": "pop1"}])
def test_candidates_that_are_all_in_the_list_are_warned_of(workplace, caplog, mode):
    """RecBole has metrics for them, of which most are 1."""
    write(workplace)
    prepare("SASRec", **TOP_3, eval_args={**SPLIT, "mode": mode})
    assert "topk=[3]: mode='" in caplog.text and "1' ranks 2 items, and all of them are" in caplog.text


@pytest.mark.parametrize(
    "rows, split, named",
    [
        (1, "valid_and_test", "no rows for train and valid and test: no user of own has more than 1 interactions"),
        (
            2,
            "valid_and_test",
            "{'LS': 'valid_and_test'} leaves no rows for valid and test: .* more than 2 interactions",
        ),
        (2, "test_only", "no rows for test"),
        (2, "valid_only", "no rows for valid:"),
    ],
)
def test_too_few_interactions_for_leave_one_out(workplace, rows, split, named):
    write(workplace, rows=rows)
    with pytest.raises(ValueError, match=named):
        prepare("GLINTRU", **TOP_3, eval_args={**SPLIT, "split": {"LS": split}})


@pytest.mark.parametrize(
    "rows, split, warns", [(3, "valid_and_test", 1), (4, "valid_and_test", 0), (3, "valid_only", 0)]
)
def test_an_empty_part_is_warned_of(workplace, caplog, rows, split, warns):
    write(workplace, rows=rows)
    with caplog.at_level(logging.WARNING):
        prepare("GLINTRU", **TOP_3, eval_args={**SPLIT, "split": {"LS": split}})
    assert caplog.text.count("leaves no rows for valid: no user of own has more than 3 interactions") == warns


@pytest.mark.parametrize("split", [{"TS": [0.5, 0, 0.5]}, {"RS": [0.5, 0.5, 0]}])
def test_a_part_that_is_not_asked_for_is_not_missed(workplace, caplog, split):
    """The first row of each user is for training."""
    write(workplace, rows=2)
    prepare("BPR", **TOP_3, eval_args={**SPLIT, "split": split})
    assert "leaves no rows" not in caplog.text


@pytest.mark.parametrize(
    "settings, named",
    [
        (
            {"user_inter_num_interval": "[100,inf)"},
            r"'own', user_inter_num_interval='\[100,inf\)': own.inter has no",
        ),
        (
            {"val_interval": {"timestamp": "[99,inf)"}},
            "'own', val_interval={'timestamp': .*: own.inter has no rows",
        ),
        (
            {"load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]}},
            "dataset='own', filter_inter_by_user_or_item=True: own.inter has no rows left",
        ),
    ],
)
def test_filters_leave_something(workplace, settings, named):
    """Those of its features too: no interaction is with an item of this file."""
    write(workplace)
    (workplace / "dataset" / "own" / "own.item").write_text("item_id:token\nelse\n")
    with pytest.raises(ValueError, match=named) as raised:
        prepare("GLINTRU", **TOP_3, **settings)
    assert raised_by_a_setting(raised.value)  # so that the command shows the message alone
    with pytest.raises(ValueError, match="Some feat is empty"):
        prepare("GLINTRU", **TOP_3, **{**settings, "check_data": None})


def test_a_file_without_rows_is_named(workplace):
    write(workplace, users=0)
    with pytest.raises(ValueError, match="dataset='own': own.inter has no rows left"):
        prepare("GLINTRU", **TOP_3)


@pytest.mark.parametrize(
    "longest, shortest, named",
    [
        (5, 1, "MAX_ITEM_LIST_LENGTH=4: own has a history of 5 items"),
        (4, 0, "dataset='own': has a history without items"),
        (4, 1, None),
    ],
)
def test_histories_of_split_data_fit(workplace, longest, shortest, named):
    folder = workplace / "dataset" / "own"
    folder.mkdir(parents=True)
    for part in ("train", "valid", "test"):
        histories = [["i1", "i2", "i3", "i4", "i5"][:length] for length in (longest, shortest, 2)]
        lines = [f"u{user}\t{' '.join(items)}\ti{user}" for user, items in enumerate(histories)]
        (folder / f"own.{part}.inter").write_text(
            "\n".join(["user_id:token\titem_id_list:token_seq\titem_id:token", *lines]) + "\n"
        )
    settings = {"load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"]}
    settings |= {**TOP_3, "benchmark_filename": ["train", "valid", "test"], "MAX_ITEM_LIST_LENGTH": 4}
    if named is None:
        assert len(prepare("GLINTRU", **settings)) == 3
    else:
        with pytest.raises(ValueError, match=named):
            prepare("GLINTRU", **settings)


def test_the_checks_are_the_command_lines_and_can_be_left_out(launch, tmp_path, workplace):
    write(workplace, rows=2)
    assert len(prepare("GLINTRU", check_data=None)) == len(prepare("GLINTRU", check_data=False)) == 3
    assert launch().above == {"check_data": True}
    (tmp_path / "own.yaml").write_text("check_data: False\n")
    assert launch("--config_files=own.yaml").above == launch("--check_data=False").above == {"check_data": False}


@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_ends_without_a_traceback(tmp_path, processes):
    write(tmp_path)
    arguments = ["--dataset=own", f"--nproc={processes}", "--use_gpu=False", "--gpu_id=", "--hidden_size=8"]
    done = run_python(ROOT / "run_recbole.py", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and "error: topk=[10]: must be at most 5" in done.stderr
    assert done.stderr.count("Traceback") == 0
