"""Histories that RecBole puts into another order than that of their times are warned of, others are not."""

import logging

import pytest

from recbole_glintru.launch.configuration import merged_settings

USERS, CLICKS = 6, 8
TODAY = 1_700_000_000


def prepare(folder, caplog, times, model="GLINTRU", newest_first=True, name="own", kind="float", **settings):
    """Up to where RecBole would make the model: the data, and what was warned of."""
    from recbole.data import create_dataset, data_preparation

    rows = [f"u{user}\ti{(user + step) % 12}\t{times(step)}" for user in range(USERS) for step in range(CLICKS)]
    rows = rows[::-1] if newest_first else rows
    (folder / "dataset" / name).mkdir(parents=True)
    file = folder / "dataset" / name / f"{name}.inter"
    file.write_text("\n".join([f"user_id:token\titem_id:token\ttimestamp:{kind}", *rows]) + "\n")
    settings = {"check_data": True, "topk": [3], "valid_metric": "MRR@3", **settings}
    config = merged_settings(model, name, [], settings)
    with caplog.at_level(logging.WARNING):
        data = data_preparation(config, create_dataset(config))
    return data, [record.message for record in caplog.records if "TIME_FIELD" in record.message]


def last_history(data):
    """The longest history of the user u0, as tokens: the tested one's."""
    tested = data[2].dataset
    row = tested.token2id("user_id", "u0") == tested.inter_feat["user_id"]
    return tested.id2token("item_id", tested.inter_feat["item_id_list"][row][0, : CLICKS - 1]).tolist()


def clicks(step):
    return TODAY + 10 * step


def test_clicks_of_a_file_out_of_order(workplace, caplog):
    """A user's first seven clicks are in one step, where all but the fourth change places; the last is after them."""
    data, (said,) = prepare(workplace, caplog, clicks)
    assert last_history(data) != [f"i{step}" for step in range(CLICKS - 1)]
    assert said.startswith("TIME_FIELD='timestamp': RecBole stores times as float32, here in steps of 128, ")
    assert "36 of 48 interactions of own are not in the order of time. Sort the file by time." in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "times, settings",
    [
        (clicks, {"newest_first": False}),  # the order of the file is that of time
        (lambda step: 10 * step, {}),  # numbers that float32 tells apart
        (lambda step: TODAY + 86400 * step, {}),
        (lambda step: TODAY, {}),  # truly at once
        (clicks, {"normalize_field": ["timestamp"]}),  # scaled before they are float32
        (clicks, {"rm_dup_inter": "first"}),  # for which RecBole sorts by float64
    ],
)
def test_the_order_of_time_is_not_warned_of(workplace, caplog, times, settings):
    data, said = prepare(workplace, caplog, times, **settings)
    assert said == []
    if times is clicks:
        assert last_history(data) == [f"i{step}" for step in range(CLICKS - 1)]


@pytest.mark.parametrize(
    "times, settings, wrong",
    [
        (clicks, {}, 48),  # RecBole's order is that of the file, the newest first
        (clicks, {"newest_first": False}, 0),
        (lambda step: 8 + step, {"newest_first": False}, 0),  # as letters, 10 is before 8
        (lambda step: f"2026-11-{22 + step}T10:00", {}, 48),
        (lambda step: f"2026-11-{22 + step}T10:00", {"newest_first": False}, 0),
        (clicks, {"check_data": None}, 0),
    ],
)
def test_times_of_type_token(workplace, caplog, times, settings, wrong):
    data, said = prepare(workplace, caplog, times, kind="token", **settings)
    if settings == {}:
        assert last_history(data) == [f"i{step}" for step in range(CLICKS - 1, 0, -1)]
    assert len(said) == (wrong > 0)
    assert all(f": {wrong} of 48 interactions" in one and "Make the column's type float" in one for one in said)


@pytest.mark.parametrize(
    "model, settings, warns",
    [
        ("BPR", {"eval_args": {"order": "TO", "split": {"RS": [8, 1, 1]}}}, True),
        ("BPR", {"eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}}, "load_col": None}, False),
        ("BPR", {"eval_args": {"order": "RO", "split": {"TS": [6, 1, 3]}}, "load_col": None}, True),
        ("GLINTRU", {"numerical_features": ["timestamp"]}, False),
        ("GLINTRU", {"check_data": None}, False),
        ("GLINTRU", {"name": "ml-1m"}, False),  # all that is published of it has the order of the file
    ],
)
def test_who_is_warned(workplace, caplog, model, settings, warns):
    assert bool(prepare(workplace, caplog, clicks, model, **settings)[1]) == warns


@pytest.mark.parametrize("settings, warns", [({}, 0), ({"normalize_all": False}, 1)])
def test_ml_100k_is_out_of_order_unless_scaled(workplace, caplog, settings, warns):
    """RecBole scales it; a second less than a step of float32 stays, in 0.4 % of the rows."""
    from recbole.data import create_dataset

    from recbole_glintru.launch import time_order

    config = merged_settings("GLINTRU", "ml-100k", [], settings)
    time_order.warn(config, create_dataset(config))
    assert caplog.text.count("steps of 64, and keeps") == caplog.text.count("TIME_FIELD") == warns
    assert caplog.text.count(" of 100000 interactions of ml-100k are not in the order of time") == warns
