"""The benchmarks: their arithmetic, their statistics, and a run of each kind through the command line."""

import json
import math
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from fakes import make_batch, make_histories, model_settings
from recbole.data.interaction import Interaction
from torch import nn

from recbole_glintru.models.glintru import GLINTRU
from recbole_glintru.ops.counting import CountMultiplyAdds

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import efficiency  # noqa: E402
from measure import checkout, growth, loader, memory, report, shapes, table, timing, workload  # noqa: E402
from measure.plain_glintru import PlainGLINTRU  # noqa: E402

TINY = shapes.Shape(
    "amazon-video-games",  # whose settings apply
    users=60,
    items=80,
    interactions=1200,
    per_user=tuple(np.linspace(8, 50, 20)),
    per_item=tuple(np.linspace(2, 40, 20)),
    features={"categories": ("token_seq", 5, 2)},
)
REAL_MEANS = {"ml-1m": 118.55, "beauty": 8.97, "games": 12.29}  # positions of a training row in the real data


@pytest.fixture
def tiny_shape(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)
    monkeypatch.setattr(timing, "ENOUGH", 0.01)


@pytest.fixture
def no_memory(monkeypatch):
    """A process for each model takes seconds."""
    monkeypatch.setattr(memory, "peak", lambda *_, **__: memory.Peak(None, "not measured"))


def results(folder):
    return json.loads((folder / "efficiency-cpu.json").read_text())["sections"]


# ------------------------------------------------------------------------------------------------------- the models


@pytest.mark.parametrize("n_layers", [1, 2])
def test_plain_glintru_is_the_published_model(n_layers):
    config = model_settings("GLINTRU", mask_padding=False, pad_row_init="random", n_layers=n_layers)
    model, plain = (kind(config, workload.Catalogue(30)).eval() for kind in (GLINTRU, PlainGLINTRU))
    plain.load_state_dict(model.state_dict())
    batch = make_batch(*make_histories([1, 3, 12, 20], padded_to=20))
    with torch.no_grad():
        expected, actual = model.full_sort_predict(batch), plain.full_sort_predict(batch)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(plain.predict(batch), model.predict(batch), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(plain.calculate_loss(batch), model.calculate_loss(batch))


def test_every_candidate_sees_the_same_histories(tmp_path, workplace):
    shapes.write_atomic_files(TINY, tmp_path / "data", 60)
    names = ("GLINTRU", "BERT4Rec", "SMLP4Rec")
    made = workload.Workload("tiny", TINY.dataset, tmp_path / "data", torch.device("cpu"), 16, TINY, names)
    assert made.items == TINY.items + 1
    batches = [made.training_batches(name, 2)[1] for name in names]
    assert all(torch.equal(batch["item_id_list"], batches[0]["item_id_list"]) for batch in batches)
    assert all(torch.equal(batch["item_id"], batches[0]["item_id"]) for batch in batches)
    assert "Mask_item_id_list" in batches[1].columns
    assert [("categories" in batch.columns) for batch in batches] == [False, False, True]  # joining features costs


# --------------------------------------------------------------------------------------------------- the made data


@pytest.mark.parametrize("name", REAL_MEANS)
def test_shapes_are_those_of_the_real_data(name):
    shape = shapes.SHAPES[name]
    for of, number in ((shape.per_user, shape.users), (shape.per_item, shape.items)):
        assert shapes.counts(of, number).sum() == pytest.approx(shape.interactions, rel=0.002)
    longest = 200 if name == "ml-1m" else 100
    lengths = shapes.training_lengths(shape, 100_000, longest)
    assert lengths.min() == 1 and lengths.max() == longest
    assert lengths.mean() == pytest.approx(REAL_MEANS[name], rel=0.02)


def test_few_users_are_spread_as_all_of_them():
    shape = shapes.SHAPES["beauty"]
    few = shapes.counts(shape.per_user, 1000)
    assert few.sum() * shape.users / 1000 == pytest.approx(shape.interactions, rel=0.01)
    assert np.all(np.diff(few) >= -1)  # means are met by rounding up and down


# ---------------------------------------------------------------------------------------- arithmetic and statistics


def test_least_operations_are_the_products_of_a_stack():
    """A lower block computes everything everywhere, as the plain model does: its products are those of one block."""
    lengths, width, heads, counted = [20, 20, 20], 16, 4, []
    for n_layers in (1, 2):
        model = PlainGLINTRU(model_settings("GLINTRU", n_layers=n_layers, kernel_size=5), workload.Catalogue(30)).eval()
        with CountMultiplyAdds() as counter, torch.no_grad():
            model.full_sort_predict(make_batch(*make_histories(lengths)))
        counted.append(counter.total)
    one, two = (timing.least_operations(60, 3, 30, width, kernel_size=5, layers=layers) for layers in (1, 2))
    attention = 2 * 60 * width * width // heads  # not a product with a weight
    assert (two - one) // 6 == counted[1] - counted[0] - attention
    assert one == 6 * (60 * 16 * 16 * (9 + 5) + 3 * 30 * 16)


def test_ratios_are_of_neighbours(monkeypatch):
    race = timing.Race("A", torch.device("cpu"))
    monkeypatch.setattr(timing, "one_turn", lambda action, device: action())
    for reference, other in ((1.0, 3.0), (2.0, 4.0), (1.0, 10.0)):
        race.turn("A", lambda: 5.0, None)
        race.turn("B", lambda value=other: value, lambda value=reference: value)
    summary = race.summary("B")
    assert (summary["ms"], summary["turns"]) == (4000, 3)
    assert (summary["ratio"], summary["lowest"], summary["highest"]) == (3.0, 2.0, 10.0)
    assert race.summary("A")["turns"] == 6
    assert race.summary("A")["ratio"] == 1.0
    assert race.summary("C") is None


def test_fast_actions_are_repeated_and_slow_ones_are_not(monkeypatch):
    for taken, calls in ((2.5, 1), (0.4, 2), (0.125, 4), (0.001, 1 + timing.MOST)):
        clock = Mock(return_value=taken)
        monkeypatch.setattr(timing, "seconds", clock)
        assert timing.one_turn(None, torch.device("cpu")) == taken
        assert clock.call_count == calls


@pytest.mark.parametrize("first", [0.1, 1.9])
def test_the_first_call_of_a_turn_only_warms_up(first, monkeypatch):
    monkeypatch.setattr(timing, "seconds", Mock(side_effect=[first, 0.31]))
    assert timing.one_turn(None, torch.device("cpu")) == 0.31


def test_product_rate_counts_two_operations_a_multiply_add(monkeypatch):
    monkeypatch.setattr(timing, "seconds", lambda action, device: action() is None or 0.5)
    assert timing.product_rate(torch.device("cpu"), size=10) == 2 * 1000 / 0.5


@pytest.mark.parametrize(
    "value, text", [(None, ""), (0.01234, "0.0123"), (3.14159, "3.14"), (41.26, "41.3"), (12345.6, "12,346")]
)
def test_figures_have_three_digits(value, text):
    assert report.figure(value) == text


def test_how_much_of_an_evaluation_pass_was_measured_is_said():
    evaluations = {"slow": (3, 1119), "fast": (11, 11)}
    rows = {
        name: {"parameters": 1, "evaluation": dict(seconds=4000, ratio=2, measured_batches=measured, batches=batches)}
        for name, (measured, batches) in evaluations.items()
    }
    text = report.render({"kind": "efficiency", "about": "", "rows": rows, "notes": [], "finished": True})
    assert "≈ 4,000 (3 of 1,119 batches) |" in text and " 4,000 |" in text


def test_file_names_carry_the_device():
    assert report.file_stem("NVIDIA H100 80GB HBM3") == "efficiency-nvidia-h100-80gb-hbm3"


# --------------------------------------------------------------------------------------------------------- the table


def table_of(monkeypatch, tmp_path, turns, *names):
    """A table of the tiny shape, measured."""
    shapes.write_atomic_files(TINY, tmp_path / "data", 60)
    made = workload.Workload("tiny", TINY.dataset, tmp_path / "data", torch.device("cpu"), 16, TINY, names)
    monkeypatch.setattr(table.Table, "_measure_evaluation", lambda *_: None)
    measured = table.Table(made, ["GLINTRU", *names], turns, table.Budget(None), 1.0, 1.0, lambda _: None)
    measured.run()
    return measured.rows


def test_models_are_warm_before_their_turns(tmp_path, workplace, no_memory, monkeypatch):
    calls = []
    for kind in ("train", "_score"):
        run = getattr(table.Lane, kind)

        def noted(self, batch, kind=kind, run=run):
            calls.append((self.name, kind, len(batch)))
            run(self, batch)

        monkeypatch.setattr(table.Lane, kind, noted)
    monkeypatch.setattr(timing, "one_turn", lambda action, _: calls.append("timed") or action() or 1.0)
    table_of(monkeypatch, tmp_path, 1, "LinRec")
    (step, score), (reference_step, reference_score) = (
        [(name, kind, 16) for kind in ("train", "_score")] for name in ("LinRec", "GLINTRU")
    )
    assert calls[:6] == [reference_step, reference_score, "timed", reference_step, "timed", reference_score]
    assert calls[6:8] == [step, score]
    assert calls[8:] == ["timed", reference_step, "timed", step, "timed", reference_score, "timed", score]


@pytest.mark.parametrize("slow, turns", [(0.5, 3), (2.0, 5)])
def test_slow_models_take_three_turns(slow, turns, tmp_path, workplace, no_memory, monkeypatch):
    monkeypatch.setattr(timing, "SLOW", slow)
    monkeypatch.setattr(timing, "one_turn", lambda *_: 1.0)
    rows = table_of(monkeypatch, tmp_path, 5, "LinRec")
    assert rows["LinRec"]["training"]["turns"] == rows["LinRec"]["scoring"]["turns"] == turns


class MadeLoader:
    """Of a batch it says how many users it has."""

    step, _dataset = 20, None

    def __init__(self, users):
        self.uid_list = range(users)

    def __len__(self):
        return math.ceil(len(self.uid_list) / self.step)

    def __iter__(self):
        return (len(self.uid_list[start : start + self.step]) for start in range(0, len(self.uid_list), self.step))


@pytest.mark.parametrize(
    "of_a_user, made, measured",
    [
        (0.2, 1000, 3),  # slow
        (0.01, 1000, 25),
        (0.0001, 1000, 50),  # all
        (0.01, 10, 3),  # one batch, again and again
        (0.01, 30, 3),  # of 20, of 10, of 20 users
    ],
)
def test_evaluation_is_measured_warm(of_a_user, made, measured, monkeypatch):
    clock = []

    def evaluate(part, load_best_model):
        cold = 0 if clock else 1.0
        clock.append(cold + of_a_user * sum(part))

    monkeypatch.setattr(table, "candidate_loader", lambda _, loader: loader)
    monkeypatch.setattr(timing, "seconds", lambda action, _: action() or clock[-1])
    places = {"evaluation_loader": lambda _: MadeLoader(made), "trainer": lambda *_: Mock(evaluate=evaluate)}
    made_table = Mock(workload=Mock(users=1000, **places), _lanes={"A": Mock()})
    found = table.Table._evaluate(made_table, "A", 5.0)
    assert (found.measured, found.batches) == (measured, 50)
    assert found.seconds_of_a_user == pytest.approx(of_a_user)


# ------------------------------------------------------------------------------------------------------------ memory


class Hungry(nn.Module):
    """Takes 64 MiB in a step with more than two rows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def calculate_loss(self, batch):
        taken = torch.ones(2**24 if len(batch) > 2 else 1)
        return (self.weight * taken.sum()).sum()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the figure is Linux's")
def test_peak_memory_is_that_of_the_step():
    batch = Interaction({"item_id": torch.arange(8)})
    assert memory.peak(Hungry(), batch, torch.device("cpu")).mebibytes == pytest.approx(64, abs=8)
    none = memory.peak(Hungry(), batch, torch.device("cpu"), share_of_free=1e-6)
    assert none == (None, "out of memory")


# -------------------------------------------------------------------------------------------------- the command line


def test_table(tmp_path, tiny_shape, no_memory, capsys):
    options = ["--shape", "tiny", "--device", "cpu", "--batch_size", "16", "--turns", "2", "--output", str(tmp_path)]
    options += ["--evaluation_seconds", "0.3"]
    models = ["GRU4Rec-accelerated", "LightSANs-accelerated", "GLINTRU-plain"]
    before = Path.cwd()
    assert efficiency.main([*options, "--models", *models]) == 0
    assert Path.cwd() == before
    section = results(tmp_path)["tiny shape"]
    assert section["finished"]
    assert section["package"] == checkout.package()
    assert f"Measured on {section['date']}, commit" in report.render(section)
    assert list(section["rows"]) == ["GLINTRU", "GRU4Rec-accelerated", "GLINTRU-plain"]
    for row in section["rows"].values():
        assert row["training"]["turns"] >= 2 and row["scoring"]["ms"] > 0 and row["parameters"] > 0
        steps = math.ceil(TINY.training_rows / 16)
        assert row["epoch"]["seconds"] == pytest.approx(steps * (row["training"]["ms"] + row["loader_ms"]) / 1000)
    batches = {name: row["evaluation"]["batches"] for name, row in section["rows"].items()}
    # 60 users: histories are read once, or RecBole's 20 a batch
    assert batches == {"GLINTRU": 1, "GRU4Rec-accelerated": 1, "GLINTRU-plain": 3}
    assert 0 < section["rows"]["GLINTRU"]["peak_share"] < 1
    assert any(note.startswith("LightSANs cannot be accelerated") for note in section["notes"])
    text = (tmp_path / "efficiency-cpu.md").read_text()
    assert "| GRU4Rec-accelerated |" in text and "Tiny shape" in text
    assert "GRU4Rec-accelerated" in capsys.readouterr().out


def test_real_data(tmp_path, no_memory):
    """An epoch and an evaluation pass are measured in full where they are short."""
    shapes.write_atomic_files(TINY, tmp_path / "data", 60)
    options = ["--dataset", TINY.dataset, "--data_path", str(tmp_path / "data"), "--device", "cpu", "--turns", "1"]
    assert efficiency.main([*options, "--models", "GLINTRU", "--output", str(tmp_path)]) == 0
    row = results(tmp_path)["amazon-video-games data"]["rows"]["GLINTRU"]
    assert row["epoch"]["measured"]
    assert row["evaluation"]["measured_batches"] == row["evaluation"]["batches"] == 1


def test_what_does_not_fit_is_not_run(tmp_path, tiny_shape, monkeypatch):
    def peak(model, *_, **__):
        return memory.Peak(None, memory.OUT_OF_MEMORY) if isinstance(model, PlainGLINTRU) else memory.Peak(10.0)

    monkeypatch.setattr(memory, "peak", peak)
    monkeypatch.setattr(PlainGLINTRU, "calculate_loss", pytest.fail)
    options = ["--shape", "tiny", "--device", "cpu", "--turns", "1", "--batch_size", "16", "--output", str(tmp_path)]
    assert efficiency.main([*options, "--models", "GLINTRU-plain"]) == 0
    rows = results(tmp_path)["tiny shape"]["rows"]
    assert rows["GLINTRU-plain"]["memory"]["reason"] == "out of memory"
    assert "training" not in rows["GLINTRU-plain"] and rows["GLINTRU"]["training"]["ms"] > 0
    assert "out of memory |" in (tmp_path / "efficiency-cpu.md").read_text()


def test_ctrl_c_writes_what_there_is(tmp_path, tiny_shape, no_memory, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(table, "loader_seconds", interrupt)
    options = ["--shape", "tiny", "--device", "cpu", "--batch_size", "16", "--models", "GLINTRU"]
    assert efficiency.main([*options, "--output", str(tmp_path)]) == 130
    section = results(tmp_path)["tiny shape"]
    assert not section["finished"]
    assert section["rows"]["GLINTRU"]["training"]["ms"] > 0
    assert "Stopped before its end" in capsys.readouterr().out


def test_growth_and_loader_stand_beside_each_other(tmp_path, tiny_shape, no_memory, monkeypatch):
    options = ["--shape", "tiny", "--device", "cpu", "--batch_size", "8", "--turns", "1", "--output", str(tmp_path)]
    grow = [*options, "--growth", "layers", "--values", "2", "1", "--models", "GLINTRU", "GRU4Rec", "SSEPT"]
    assert efficiency.main(grow) == 0
    monkeypatch.setattr(loader, "WORKERS", (0, 1))
    assert efficiency.main([*options, "--loader", "--evaluation_seconds", "0.1"]) == 0
    sections = results(tmp_path)
    grown = sections["growth with layers, tiny"]
    assert grown["values"] == [1, 2]
    for points in grown["rows"].values():
        assert points["1"]["training"]["ms"] > 0 and points["2"]["scoring"]["ms"] > 0
        assert points["2"]["parameters"] > points["1"]["parameters"]
    shares = sections["loader, tiny shape"]["rows"]
    assert shares["training, worker: 1"]["same batches"] == "yes"
    assert len(shares) == 6


def test_growth_leaves_out_what_has_no_such_setting():
    shape, device = shapes.SHAPES["beauty"], torch.device("cpu")
    names = ["GLINTRU", "LinRec", "Mamba4Rec"]
    grown = growth.Growth(growth.AXES["kernel"], shape, device, names, [3], 1, table.Budget(None), 4, print)
    assert list(grown.rows) == ["GLINTRU", "Mamba4Rec"]
    assert grown.notes == ["LinRec has no kernel size of its own (`kernel_size`) and is left out."]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--models Nobody", "--models Nobody: must be among GLINTRU,"),
        ("--growth depth", "--growth depth: must be among length,"),
        ("--shape none", "--shape"),
        ("--device tpu", "--device tpu: must be cpu, cuda or cuda:N."),
        ("--device cuda:99", "--device cuda:99: PyTorch sees"),
        ("--turns 0", "--turns"),
        ("--budget never", "--budget"),
        ("--dataset ml-1m", "--dataset ml-1m: needs --data_path"),
        ("--dataset ml-1m --data_path /nowhere", "there is no /nowhere/ml-1m/ml-1m.inter."),
        ("--dataset ml-1m --shape ml-1m", "not allowed with"),
        ("--values 3", "--values needs exactly one --growth."),
        ("--data_path /nowhere", "--data_path /nowhere: needs --dataset."),
        ("--dataset ml-100k --data_path /nowhere", "RecBole includes this data set"),
        ("--growth length --dataset ml-1m", "--growth is measured on made-up batches"),
        ("--bfloat16 --profile", "--bfloat16: is for the table"),
    ],
)
def test_wrong_arguments_get_one_clear_error(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(efficiency, "run", pytest.fail)
    assert efficiency.main(arguments.split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
