"""The data of a run: where it is looked for, what is downloaded. Nothing reaches the network."""

import io
import sys
import urllib.error
import urllib.request
import zipfile

import pytest
from launches import fails

HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"
PARTS = ["train", "valid", "test"]


def test_an_unknown_data_set_says_where_it_was_looked_for(launch, capsys, tmp_path):
    error = fails(capsys, launch("--dataset=own", "--data_path=elsewhere"))
    assert f"looked for {tmp_path / 'elsewhere' / 'own' / 'own.inter'}" in error
    assert "has no download" in error and "--data_path=DIR" in error
    assert str(tmp_path / "dataset" / "own" / "own.inter") in fails(capsys, launch("--dataset=own"))


def test_a_folder_without_the_data_is_no_data(launch, capsys, tmp_path):
    (tmp_path / "dataset" / "ml-1m").mkdir(parents=True)
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert str(tmp_path / "dataset" / "ml-1m" / "ml-1m.inter") in error and "the folder exists" in error


def test_a_saved_data_set_stands_for_the_files(launch, capsys, tmp_path):
    """Where it is: RecBole looks for the files otherwise."""
    saved = tmp_path / "filtered.pth"
    assert "no data for 'own': looked for" in fails(capsys, launch("--dataset=own", f"--dataset_save_path={saved}"))
    saved.touch()
    assert launch("--dataset=own", f"--dataset_save_path={saved}").ran


@pytest.mark.parametrize("name, stands", [("ml", False), ("ml-100k", True)])
def test_a_saved_data_set_has_the_whole_name(launch, tmp_path, name, stands):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "ml-100k-SequentialDataset.pth").touch()
    assert launch(f"--dataset={name}").ran == stands


def test_split_files_are_looked_for_by_their_names(launch, capsys, tmp_path):
    folder = tmp_path / "dataset" / "own"
    folder.mkdir(parents=True)
    option = f"--benchmark_filename={PARTS}"
    assert str(folder / "own.test.inter") in fails(capsys, launch("--dataset=own", "--model=BPR", option))
    for part in PARTS:
        (folder / f"own.{part}.inter").write_text("user_id:token\titem_id:token\n")  # sorted already: no time needed
    assert launch("--dataset=own", "--model=BPR", option).ran


def test_without_a_network_the_download_is_reported(launch, capsys, tmp_path):
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert str(tmp_path / "dataset" / "ml-1m" / "ml-1m.inter") in error
    assert "ml-1m.zip failed: no network in the tests" in error and "--data_path=DIR" in error
    assert not (tmp_path / "dataset").exists()


def archive(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, text in files.items():
            zipped.writestr(f"{name}", text)
    return content.getvalue()


def serve(monkeypatch, *responses, size=None):
    """Answer one opened address after the other with these bytes, or raise; `size` is what they are said to have."""

    class Response(io.BytesIO):
        def info(self):
            return {"Content-Length": str(size or len(self.getvalue()))}

    answers = iter(responses)

    def urlopen(address):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return Response(answer)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_a_data_set_that_recbole_knows_is_downloaded(launch, monkeypatch, tmp_path):
    zipped = archive(**{"Amazon_Beauty.inter": HEADER, "Amazon_Beauty.item": "item_id:token\n"})
    serve(monkeypatch, zipped, zipped)  # its size is asked for, then the content
    assert launch("--dataset=amazon-beauty", "--data_path=down").ran
    there = sorted(file.name for file in (tmp_path / "down" / "amazon-beauty").iterdir())
    assert there == ["amazon-beauty.inter", "amazon-beauty.item"]


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", urllib.error.URLError("connection reset")])
def test_a_broken_download_leaves_nothing_behind(launch, monkeypatch, capsys, tmp_path, answer):
    serve(monkeypatch, archive(), answer)
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert "ml-1m.zip failed" in error
    assert not (tmp_path / "dataset" / "ml-1m").exists()


@pytest.mark.parametrize(
    "typed, said", [("", "got no answer (`echo y | ...` gives one)."), ("n\n", "was not downloaded.")]
)
def test_a_large_download_is_asked_for(launch, monkeypatch, capsys, tmp_path, typed, said):
    """Under nohup there is nobody to ask."""
    serve(monkeypatch, b"", size=2 << 30)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    error = fails(capsys, launch("--dataset=ml-1m"))
    assert error.splitlines()[-1].startswith("error: 'ml-1m' was not downloaded") and error.rstrip().endswith(said)
    assert not (tmp_path / "dataset").exists()
