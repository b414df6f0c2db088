"""Files that cannot be read, and columns that are missing or of the wrong type, are reported in one line."""

import pytest
from launches import fails

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
PARTS = ["train", "valid", "test"]
RATED = HEADER.replace("\ttime", "\trating:float\ttime")
RATINGS = "--load_col={'inter': ['user_id', 'item_id', 'rating', 'timestamp']}"
BRANDS = "--load_col={'inter': ['user_id', 'item_id', 'timestamp'], 'item': ['item_id', 'brand']}"


def write(folder, name, content, encoding="utf-8"):
    """A file of the data set `own`; returns its path as the commands name it."""
    file = folder / "dataset" / "own" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding=encoding)
    return str(file.relative_to(folder))


@pytest.mark.parametrize(
    "model, header, settings, said",
    [
        (
            "GLINTRU",
            HEADER[: HEADER.index("\ttime")],
            [],
            "TIME_FIELD='timestamp': {file} has no such column; it has user_",
        ),
        ("GLINTRU", HEADER.replace("timestamp", "time"), [], "it has user_id, item_id, time."),
        (
            "GLINTRU",
            HEADER.replace("user_id", "uid"),
            [],
            "USER_ID_FIELD='user_id': {file} has no such column; it has uid",
        ),
        ("BPR", HEADER, ["--ITEM_ID_FIELD=movie"], "ITEM_ID_FIELD='movie': {file} has no such column"),
        (
            "SASRec",
            HEADER,
            ["--load_col={'inter': ['user_id', 'item_id']}"],
            "leaves out 'timestamp', the column of TIME_F",
        ),
        (
            "SASRec",
            HEADER,
            ["--load_col={'item': ['item_id']}"],
            "load_col={'item': ['item_id']}: leaves out 'user_id'",
        ),
        (
            "SASRec",
            HEADER,
            ["--load_col=None", "--unload_col={'inter': ['timestamp']}"],
            "unload_col={'inter': ['timest",
        ),
        ("BPR", HEADER.replace("item_id:token", "item_id:float"), [], "{file} is float, but must be token."),
        ("SASRec", HEADER.replace("user_id:token", "user_id:token_seq"), [], "{file} is token_seq, but must be token."),
        ("SASRec", HEADER.replace("p:float", "p:float_seq"), [], "{file} is float_seq, but must be float."),
        ("SASRec", HEADER.replace("p:float", "p:token"), [], ""),
        ("BPR", HEADER[: HEADER.index("\ttime")], [], ""),
        ("SASRec", HEADER, ["--load_col={'inter': '*'}"], ""),
        ("SASRec", HEADER, ["--load_col=None"], ""),
        ("SASRec", HEADER.replace("\t", "|"), ["--field_separator=|"], ""),
    ],
)
def test_a_missing_column_or_type_is_named(launch, capsys, tmp_path, model, header, settings, said):
    file = tmp_path / "dataset" / "own" / "own.inter"
    file.parent.mkdir(parents=True)
    file.write_text(header)
    launched = launch("--dataset=own", f"--model={model}", *settings)
    if said:
        assert said.replace("{file}", str(file.relative_to(tmp_path))) in fails(capsys, launched)
    else:
        assert launched.ran


@pytest.mark.parametrize(
    "column, settings, said",
    [
        ("item_id_list:token_seq", [], ""),
        ("item_id_list:token_seq", ["--load_col=None"], ""),
        ("history:token_seq", [], "ITEM_ID_FIELD + LIST_SUFFIX='item_id_list' (the histories of benchmark_filename=["),
        ("item_id_list:token", [], "the column's type in {file} is token, but must be token_seq"),
        (
            "item_id_list:token_seq",
            ["--load_col={'inter': ['user_id', 'item_id']}"],
            "load_col={'inter': ['user_id', 'item_id']}: leaves out 'item_id_list', the column of ITEM_ID_FIELD",
        ),
        ("item_id_list:token_seq", ["--unload_col={'inter': ['item_id_list']}"], "unload_col={'inter': ['item_id_li"),
    ],
)
def test_split_data_have_histories(launch, capsys, tmp_path, column, settings, said):
    folder = tmp_path / "dataset" / "own"
    folder.mkdir(parents=True)
    for part in PARTS:
        (folder / f"own.{part}.inter").write_text(f"user_id:token\t{column}\titem_id:token\n")
    split = [f"--benchmark_filename={PARTS}", "--alias_of_item_id=['item_id_list']"]
    launched = launch("--dataset=own", "--model=SASRec", *split, *settings)
    if said:
        assert said.replace("{file}", "dataset/own/own.train.inter") in fails(capsys, launched)
    else:
        assert launched.ran


@pytest.mark.parametrize(
    "setting, read",
    [
        ("--val_interval={'rating': '[4,inf)'}", RATINGS),
        ("--threshold={'rating': 4}", RATINGS),
        ("--normalize_field=['rating']", RATINGS),
        ("--discretization={'rating': {'method': 'ED', 'bucket': 5}}", RATINGS),
        ("--val_interval={'rating': '[4,inf)'}", "--load_col=None"),
    ],
)
def test_a_column_that_a_setting_names_is_read(launch, capsys, tmp_path, setting, read):
    """RecBole's default leaves the ratings out."""
    write(tmp_path, "own.inter", RATED)
    error = fails(capsys, launch("--dataset=own", setting, "--normalize_all=False"))
    assert "'rating' is not among the columns that are read, item_id, timestamp, user_id. Add it to load_col={" in error
    assert launch("--dataset=own", setting, "--normalize_all=False", read).ran


def test_a_threshold_makes_a_label(launch, capsys, tmp_path):
    write(tmp_path, "own.inter", RATED)
    settings = ["--dataset=own", "--normalize_field=['label']", "--normalize_all=False", RATINGS]
    assert "'label' is not among the columns" in fails(capsys, launch(*settings))
    assert launch(*settings, "--threshold={'rating': 4}").ran


def test_a_threshold_is_one_of_interactions(launch, capsys, tmp_path):
    write(tmp_path, "own.inter", HEADER)
    write(tmp_path, "own.item", "item_id:token\tprice:float\n")
    price = ["--dataset=own", "--load_col=None"]
    assert "threshold={'price': 4}: 'price' is not" in fails(capsys, launch(*price, "--threshold={'price': 4}"))
    assert launch(*price, "--val_interval={'price': '[4,inf)'}").ran


@pytest.mark.parametrize(
    "header, settings, said",
    [
        ("item_id\tbrand:token", [BRANDS], "{file} has a column 'item_id': must be NAME:TYPE"),
        ("item_id:token\tbrand:text", [BRANDS], "{file} has a column 'brand:text': must be NAME:TYPE"),
        (
            "item:token\tbrand:token",
            [BRANDS],
            "ITEM_ID_FIELD='item_id': {file} has no such column; it has item, brand.",
        ),
        (
            "item_id:token\tbrand:token",
            [BRANDS.replace("'item_id', 'b", "'b")],
            "leaves out 'item_id', the column of I",
        ),
        ("item_id:token\tbrand:token", [BRANDS], ""),
        ("item_id\tbrand", [], ""),  # nothing of it is read
    ],
)
def test_files_of_features(launch, capsys, tmp_path, header, settings, said):
    write(tmp_path, "own.inter", HEADER)
    file = write(tmp_path, "own.item", header + "\n")
    launched = launch("--dataset=own", *settings)
    if said:
        assert said.replace("{file}", file) in fails(capsys, launched)
    else:
        assert launched.ran


def test_other_encodings(launch, capsys, tmp_path):
    file = write(tmp_path, "own.inter", HEADER + "ann\ttea\t1\n" * 10_000 + "Zoë\tcafé\t1\n", "latin-1")
    error = fails(capsys, launch("--dataset=own"))
    assert f"encoding=None: cannot read {file}: 'utf-8' codec can't decode" in error
    assert "--encoding=latin-1" in error and launch("--dataset=own", "--encoding=latin-1").ran
    assert "unknown encoding: utf-99" in fails(capsys, launch("--dataset=own", "--encoding=utf-99"))


def test_a_byte_order_mark(launch, capsys, tmp_path):
    write(tmp_path, "own.inter", HEADER, encoding="utf-8-sig")
    error = fails(capsys, launch("--dataset=own"))
    assert "begins with a byte order mark, so set --encoding=utf-8-sig" in error
    assert launch("--dataset=own", "--encoding=utf-8-sig").ran


def test_another_separator(launch, capsys, tmp_path):
    file = write(tmp_path, "own.inter", HEADER.replace("\t", ","))
    error = fails(capsys, launch("--dataset=own"))
    assert f"field_separator='\\t': {file} has a column 'user_id:token,item_id:token,timestamp:float'" in error
    assert launch("--dataset=own", "--field_separator=,").ran


@pytest.mark.parametrize(
    "model, settings, said",
    [
        ("GLINTRU", ["--TIME_FIELD=None"], "TIME_FIELD=None: must be the name of a column, because eval_args={"),
        ("GLINTRU", ["--USER_ID_FIELD=None"], "USER_ID_FIELD=None: must be the name of a column."),
        ("BPR", ["--ITEM_ID_FIELD=None"], "ITEM_ID_FIELD=None: must be the name of a column."),
        ("GLINTRU", ["--USER_ID_FIELD=None", "--ITEM_ID_FIELD=None"], "USER_ID_FIELD=None: must be the name of"),
        ("BPR", ["--TIME_FIELD=None"], ""),
    ],
)
def test_a_column_without_a_name(launch, capsys, tmp_path, model, settings, said):
    write(tmp_path, "own.inter", HEADER)
    launched = launch("--dataset=own", f"--model={model}", *settings)
    assert said in fails(capsys, launched) if said else launched.ran


def test_numbers_that_are_none(workplace, capsys):
    """The whole command, because it is RecBole that reads them."""
    from recbole_glintru.launch import command

    file = write(workplace, "own.inter", HEADER + "".join(f"u{n % 3}\ti{n % 5}\t2024-01-0{n}\n" for n in range(1, 10)))
    assert command.main(["--dataset=own", "--protocol=none", "--topk=3", "--valid_metric=MRR@3"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and f"{file}: " in error and " convert " in error
    assert error.endswith("Columns of type float must have numbers; they are timestamp.")


@pytest.mark.parametrize("row, values", [("a\tb\t1\t", 4), ("a\tb\t5\t1", 4), ("\na\tb\t1\t\t", 5)])
def test_rows_with_more_values_than_columns(workplace, launch, capsys, row, values):
    """pandas would take the first value for the name of the row, and the users for items."""
    file = write(workplace, "own.inter", HEADER + 5 * f"{row}\n")
    error = fails(capsys, launch("--model=GLINTRU", "--dataset=own"))
    assert f"the first row of {file} has {values} values, but the header has 3 columns." in error


def test_a_separator_in_quotes_is_no_value(workplace, launch):
    write(workplace, "own.inter", HEADER + '"a\tc"\tb\t1\n')
    assert launch("--model=GLINTRU", "--dataset=own").ran
