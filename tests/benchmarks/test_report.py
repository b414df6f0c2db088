"""`benchmarks/reproduce.py`: its reports, of results that are made up."""

import json

import numpy as np
import pytest
from reproduce_cells import make_place  # first: it makes the benchmarks importable
from reproduce_reports import beauty, write_made_up, write_report
from reproduction import command, figures, grids, running, significance
from reproduction.rows import collect


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


def test_the_report_of_table_2(place):
    for seed, score in ((666, 0.29), (667, 0.31)):
        write_made_up(place, beauty("GLINTRU", seed), score)
    write_made_up(place, beauty("SASRec"), 0.32)
    write_made_up(place, beauty("GRU4Rec"), 0.2)
    write_made_up(place, beauty("LinRec"), 0.25)
    text = write_report(place, "table2")
    assert "Rank of 4, by the means over all seeds of each: 2 by Recall@10, 2 by MRR@10, 2 by NDCG@10." in text
    assert "0.3000 ± 0.0141 | 0.2964 | +1.2 %" in text  # of NDCG@10: ours, the paper's, the difference
    assert "| -6.2 % | +5.9 % |" in text  # over SASRec: 0.30 / 0.32, the paper's 0.2964 / 0.2798
    assert "No results yet: BERT4Rec; LightSANs; SMLP4Rec; Mamba4Rec." in text
    assert "over the three metrics and all models but GLINT-RU (GRU4Rec, SASRec, LinRec)" in text
    for label in ("validation pop100", "test pop100, RecBole's draw", "test uni100, fixed draw", "test, full ranking"):
        assert label in text
    assert "A processor, 2 threads" in text and "0123456789" in text
    assert (place.store.folder / "table2-amazon-beauty.md").read_text() == text


def test_p_values_are_those_of_the_ranks(place):
    ours, theirs = np.random.default_rng(1), np.random.default_rng(2)
    write_made_up(place, beauty("GLINTRU"), 0.3, ours)
    write_made_up(place, beauty("SASRec"), 0.3, theirs)
    ranks = [place.store.read(beauty(model)).ranks["fixed"] for model in ("GLINTRU", "SASRec")]
    p = significance.paired_t_test(*(significance.per_user(one)["NDCG@10"] for one in ranks))
    line = next(
        line for line in write_report(place, "table2").splitlines() if line.startswith("| SASRec | 1, 1 | +0.0 %")
    )
    assert line.endswith(f"| {p:.3f} | - |")
    write_made_up(place, beauty("SASRec"), 0.3, candidates="others")
    assert "unlike draws" in write_report(place, "table2")


def test_the_report_of_an_ablation_has_the_papers_rows(place):
    write_made_up(place, beauty("GLINTRU"), 0.2964)
    write_made_up(place, beauty("GLINTRU", use_gru=False), 0.2755)
    text = write_report(place, "table9")
    assert "| use_gru=False | 1 | 0.4133 | 0.4239 | -2.5 % |" in text and "default against the others" in text
    assert "| 0.2755 | 0.2755 | +0.0 % |" in text


@pytest.mark.parametrize("words", [["table2", "--models=STAMP,GLINTRU,STAMP"], ["figure3", "--values=4,3,04"]], ids=str)
def test_what_is_named_twice_is_there_once(words, place, capsys):
    for one in (beauty("GLINTRU"), beauty("STAMP"), beauty("GLINTRU", kernel_size=4)):
        write_made_up(place, one, 0.3)
    assert command.main([*words, "--report", f"--results={place.store.folder}", f"--scratch={place.scratch}"]) == 0
    accuracy = capsys.readouterr().out.partition("## Accuracy")[2].partition("##")[0]
    lines = [line for line in accuracy.splitlines() if line.startswith(("| GLINTRU", "| STAMP"))]
    assert len(lines) == 2


def test_costs_stand_beside_the_papers(place):
    write_made_up(place, beauty("GLINTRU", n_layers=2), 0.29)
    text = write_report(place, "table7")
    assert "| paper: training s per epoch |" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| 2 | 12,345 |"))
    assert "| 2 (1) | 2.0 (2.0) | 2.00 (2.00) | 200.0 | 100 | none |" in line
    assert "its inference of batches of 2,048: a difference" in text
    assert line.endswith("| 397.00 | -49.6 % | 6.20 | -67.7 % | 5.17 | - |")
    device = {"type": "cuda", "name": "A card"}
    write_made_up(place, beauty("GLINTRU", n_layers=2), 0.29, device=device, peak_memory_MiB=2048.0)
    assert "| 5.17 | -58.5 % |" in write_report(place, "table7")  # 2 GiB are 2.15 GB


@pytest.mark.parametrize(
    "mode, sizes, batch",
    [
        ("pop100", (2048, 2048), "2,048 candidates"),
        ("uni100", (2048, 512), "512 or 2,048 candidates"),
        ("full", (512, 512), "512 histories"),
    ],
)
def test_a_time_for_a_batch_says_what_a_batch_is(mode, sizes, batch, place):
    """RecBole's, by the number of which the time of the pass is divided; those that were run are larger."""
    for model, size in zip(("GLINTRU", "SASRec"), sizes):
        write_made_up(place, beauty(model), 0.29, mode=mode, configuration={"eval_batch_size": size})
    cost = write_report(place, "table2").partition("## Cost")[2]
    assert f"| ms of it per {batch} |" in cost and f"batches that RecBole makes of it, of at most {batch} (" in cost


def test_a_report_has_every_seed_that_there_is(place):
    for seed in (666, 667, 1234):
        write_made_up(place, beauty("GLINTRU", seed), 0.29)
    write_made_up(place, beauty("GLINTRU", 7, kernel_size=5), 0.29)  # another cell
    assert "| GLINTRU | 3 | 0.4350 ± 0.0000 |" in write_report(place, "table2", seeds=[666])


def test_costs_say_which_scans_numba_ran(place):
    numba = {"versions": {"numba": "0.68.1"}}
    configuration = {"eval_batch_size": 2048, "scan_backend": "auto"}
    write_made_up(place, beauty("Mamba4Rec"), 0.29, configuration=configuration, **numba)
    write_made_up(place, beauty("GLINTRU"), 0.29, **numba)  # has no scan
    text = write_report(place, "table2", models=["Mamba4Rec", "GLINTRU"])
    assert text.count("| none, Numba |") == 1 and text.count("| none |") == 1
    write_made_up(place, beauty("Mamba4Rec"), 0.29, configuration=configuration)
    assert "Numba" not in write_report(place, "table2", models=["Mamba4Rec"])


def test_a_report_says_what_is_unfinished_and_what_is_left_out(place):
    write_made_up(place, beauty("GLINTRU"), 0.29)
    write_made_up(place, beauty("SASRec"), 0.29, settings={**beauty("SASRec").settings(), "hidden_size": 1})
    epoch = running.folder_of(beauty("LinRec"), place.scratch) / "epoch-0"
    epoch.mkdir(parents=True)
    (epoch / "records.json").write_text(json.dumps({"epochs": [{}], "best": {"ndcg@10": 0.21}}))
    text = write_report(place, "table2")
    assert f"Left out: {epoch.parent} has epochs, but no settings.json" in text and "Unfinished" not in text
    (epoch.parent / "settings.json").write_text(json.dumps({"settings": beauty("LinRec").settings()}))
    text = write_report(place, "table2")
    assert "Unfinished: LinRec,seed=666, 1 of at most 200 epochs; best validation: ndcg@10 0.21." in text
    assert "Left out:" in text and "hidden_size=1, but now hidden_size=64" in text


def test_a_report_of_nothing_says_so(place):
    assert "No results yet." in write_report(place, "table2")


def test_another_reading_is_reported_under_its_name(place):
    write_made_up(place, beauty("GLINTRU"), 0.3)
    text = write_report(place, "table2", reading="validation")
    assert "## Accuracy: validation pop100" in text and "0.3300 | 0.2964 | +11.3 %" in text


@pytest.mark.parametrize(
    "factor, supported", [(1.0, "test pop100, fixed draw"), (0.7, "validation pop100, fixed draw")]
)
def test_the_reading_that_the_others_support_is_reported_too(factor, supported, place):
    published = {"recall@10": 0.4332, "mrr@10": 0.2325, "ndcg@10": 0.2798}  # SASRec's
    readings = {
        "validation_fixed": {key: value * 1.01 for key, value in published.items()},
        "fixed": {key: value * factor for key, value in published.items()},
    }
    write_made_up(place, beauty("GLINTRU"), 0.3, readings={"fixed": readings["fixed"], "validation_fixed": published})
    write_made_up(place, beauty("SASRec"), 0.3, readings=readings)
    blocks = write_report(place, "table2").split("\n\n")
    titles = [block for block in blocks if block.startswith("## Accuracy")]
    assert titles == [f"## Accuracy: {name}" for name in dict.fromkeys(["test pop100, fixed draw", supported])]
    remark = blocks.index("Of all readings, the paper's figures of the others are nearest to this one.")
    assert blocks[remark - 2] == titles[-1] and blocks[remark + 1].endswith(f"against the others: {supported}")


def test_other_readings_and_settings_have_files_of_their_own(place):
    write_made_up(place, beauty("GLINTRU"), 0.3)
    write_made_up(place, beauty("GLINTRU", n_layers=2), 0.3)
    write_report(place, "table2")
    write_report(place, "table2", reading="full")
    write_report(place, "table2", reading="full", own={"GLINTRU": {"n_layers": 2}})
    assert {file.name for file in place.store.folder.glob("*.md")} == {
        "table2-amazon-beauty.md",
        "table2-amazon-beauty,reading=full.md",
        "table2-amazon-beauty,GLINTRU.n_layers=2,reading=full.md",
    }


def test_a_result_without_the_reading_leaves_dashes(place):
    write_made_up(place, beauty("GLINTRU"), 0.3)
    readings = {"fixed": {"recall@10": 0.1, "mrr@10": 0.1, "ndcg@10": 0.1}}
    write_made_up(place, beauty("SASRec"), 0.3, readings=readings)
    write_made_up(place, beauty("GRU4Rec"), 0.2)
    text = write_report(place, "table2", reading="uniform")
    assert "| SASRec | 0 | - | - | - |" in text
    assert "Rank of 2," in text and "Left out, without this reading: SASRec." in text
    line = next(line for line in text.splitlines() if line.startswith("| SASRec | ") and line.endswith("0.2798 |"))
    assert line.count("| - ") == len(running.READINGS) - 1
    write_made_up(place, beauty("GLINTRU"), 0.3, readings=readings)
    assert "No comparison: GLINTRU does not have this reading." in write_report(place, "table2", reading="uniform")
    write_made_up(place, beauty("GRU4Rec"), 0.3, readings={})
    assert "No result has this reading." in write_report(place, "table2", reading="uniform")


@pytest.mark.parametrize(
    ("counts", "differs"),
    [
        ({}, False),
        ({"users": 22363, "items": 12101, "interactions": 198502}, False),
        ({"users": 22200, "items": 12150, "interactions": 197000}, False),
        ({"users": 22363, "items": 12101, "interactions": 196000}, True),
        ({"users": 20000, "items": 12101, "interactions": 198502}, True),
    ],
)
def test_data_that_is_not_the_papers_is_named(counts, differs, place):
    write_made_up(place, beauty("GLINTRU"), 0.3, **counts)
    text = write_report(place, "table2")
    assert ("The data differs" in text) is differs
    if differs:
        own = ", ".join(f"{value:,} {key}" for key, value in counts.items())
        printed = "22,364 users, 12,102 items, 198,502 interactions"
        assert f"{own}; Table 1 of the paper: {printed}" in text.partition("##")[0]


def write_partial(place, one, score, epochs=7):
    training = {"epochs": epochs, "best_epoch": 1, "evaluation_batches": 10}
    training.update(seconds_per_evaluation=2.0, cpu_seconds_per_epoch=1.0)
    write_made_up(place, one, score, partial=True, training=training)


def test_trainings_that_have_not_ended_are_labelled_everywhere(place):
    write_partial(place, beauty("GLINTRU"), 0.3)
    write_partial(place, beauty("SASRec"), 0.3)
    write_made_up(place, beauty("GRU4Rec"), 0.2)
    text = write_report(place, "table2")
    head = text.partition("##")[0]
    assert "have not ended" in head and "SASRec (7 of 200 epochs); GLINTRU (7 of 200 epochs)" in head
    assert "## GLINTRU (7 of 200 epochs) against the others" in text
    lines = [line for line in text.splitlines() if line.startswith(("| GLINTRU", "| SASRec"))]
    assert len(lines) == 15 and all("(7 of 200 epochs) |" in line for line in lines)
    assert "| - (1.0) | 2.00 (-) | 200.0 |" in text  # of the costs, those that are there
    write_partial(place, beauty("GLINTRU", 667), 0.3, epochs=9)
    assert "GLINTRU (7 to 9 of 200 epochs)" in write_report(place, "table2")


def test_means_are_of_trainings_that_have_ended(place):
    write_made_up(place, beauty("GLINTRU"), 0.3)
    write_partial(place, beauty("GLINTRU", 667), 0.1)
    text = write_report(place, "table2")
    assert "| GLINTRU | 1 | 0.4500 |" in text and "have not ended" not in text
    assert "Left out: GLINTRU, seed 667, 7 of 200 epochs." in text


def test_trainings_that_ended_at_the_most_epochs_are_named(place):
    for model, epochs in (("GLINTRU", 200), ("SASRec", 57)):
        training = {"epochs": epochs, "best_epoch": 1, "evaluation_batches": 10}
        write_made_up(place, beauty(model), 0.3, training=training)
    assert "perhaps before their best: GLINTRU." in write_report(place, "table2")


def test_mixing_weights_of_every_seed_and_block(place):
    courses = {666: [[0.6, 0.4]], 667: [[0.7, 0.3], [0.2, 0.8]]}  # blocks of two experts
    for seed, blocks in courses.items():
        course = [{"seconds": {}, "mixing": at} for at in ([[0.55, 0.45]] * len(blocks), blocks, blocks)]
        changes = {"epochs": course[: seed - 664], "mixing_at_start": [[0.5, 0.5]] * len(blocks)}
        write_made_up(place, beauty("GLINTRU", seed), 0.3, **changes)
    text = write_report(place, "figure2")
    assert "| seed | 0 | 1 | 2 | at the end (epochs) |" in text
    assert "| 666 | 0.5000 | 0.5500 | 0.6000 | 0.6000 (2) |" in text
    assert "| 667, block 1 | 0.5000 | 0.5500 | 0.7000 | 0.7000 (3) |" in text
    assert "| 667, block 2 | 0.5000 | 0.5500 | 0.2000 | 0.2000 (3) |" in text


# ---------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", ["table2", "table9", "figure2", "figure3", "figure5", "figure6"])
def test_pictures(name, place):
    pytest.importorskip("matplotlib")
    pytest.importorskip("adjustText")
    for variant in grids.variants(name, ["GLINTRU", "SASRec"]):
        for one in grids.cells(variant, "amazon-beauty", "amazon-beauty", [666]):
            (write_partial if variant.model == "SASRec" else write_made_up)(place, one, 0.29)
    text = write_report(place, name, seeds=[666], models=["GLINTRU", "SASRec"])
    picture = place.store.folder / f"{name}-amazon-beauty.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and f"]({picture.name})" in text
    missing = write_report(place, name, seeds=[666], models=["GLINTRU", "SASRec"], reading="validation_fixed")
    assert "No result has this reading." in missing


def test_pictures_say_which_trainings_have_not_ended(place):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("adjustText")
    for value in (16, 32):
        write_partial(place, beauty("GLINTRU", hidden_size=value, embedding_size=value), 0.3)
    variants = grids.variants("figure5", ["GLINTRU"], [16, 32])
    rows, _ = collect("figure5", variants, "amazon-beauty", "amazon-beauty", [666], {}, place.store)
    curves = figures._curves(pyplot, rows, "fixed", "", "")
    assert "ms of a test pass per 2,048 candidates" in [axes.get_title() for axes in curves.axes]
    for drawn in (curves, figures._scatter(pyplot, rows, "fixed", "")):
        texts = [text.get_text() for axes in drawn.axes for text in axes.texts]
        assert any("7 of 200 epochs" in text for text in texts)
        pyplot.close(drawn)


def test_dots_of_an_ablation(place):
    """Ours and the paper's, in the table's order from top to bottom, with the range of the default's seeds."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("adjustText")
    variants = grids.variants("table9", ["GLINTRU"])
    for number, variant in enumerate(variants[:3]):
        for seed, score in zip([666, 667] if number == 0 else [666], (0.30, 0.26)):
            (one,) = grids.cells(variant, "amazon-beauty", "amazon-beauty", [seed])
            write_made_up(place, one, score - 0.05 * number)
    rows, _ = collect("table9", variants[:3], "amazon-beauty", "amazon-beauty", [666], {}, place.store)
    drawn = figures._dots(pyplot, rows, "fixed", "label")
    axes = drawn.axes[list(grids.METRICS).index("NDCG@10")]
    ours, paper = axes.get_lines()
    assert list(ours.get_xdata()) == pytest.approx([0.28, 0.25, 0.20])
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == [row.label for row in rows]
    assert axes.yaxis_inverted() and list(ours.get_ydata()) == [0, 1, 2]
    (band,) = axes.patches
    assert band.get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx([0.26, 0.30])
    assert list(paper.get_xdata()) == [row.paper["NDCG@10"] for row in rows] and len(set(paper.get_xdata())) == 3
    assert list(paper.get_ydata()) == [0, 1, 2]
    pyplot.close(drawn)


def test_without_matplotlib_a_line_says_how_to_get_it(place, monkeypatch, capsys):
    find = figures.importlib.util.find_spec

    def found(name, *package):
        present = {"matplotlib": find("json"), "adjustText": None}  # whatever is installed
        return present[name] if name in present else find(name, *package)

    monkeypatch.setattr(figures.importlib.util, "find_spec", found)
    write_made_up(place, beauty("GLINTRU"), 0.3)
    assert "![" not in write_report(place, "table2")
    assert capsys.readouterr().err == "no picture without adjustText: pip install '.[bench]'\n"


# ----------------------------------------------------------------------------------------------------- other tables


def test_table_1_counts_as_recbole_does(workplace, place):
    from reproduction import statistics_of_data

    text = statistics_of_data.write({"few": "amazon-beauty"}, place.data_path, workplace / "results")
    assert "| few | 61 | 61 | 600 | 10.00 | 83.88 % |" in text
    assert (workplace / "results" / "table1.md").read_text() == text
