"""RecBole's own models, accelerated: the same scores, losses, gradients and checkpoints, for less work."""

import copy
import logging
import pickle
import random

import numpy as np
import pytest
import torch
from fakes import BASE, ItemTable, Settings
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.loss import BPRLoss
from recbole.quick_start import run_recbole
from recbole.utils import get_model, get_trainer, init_seed
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_glintru import padding_check
from recbole_glintru.accelerate import Accelerated, NotInvariant, accelerate
from recbole_glintru.launch import command
from recbole_glintru.layers.dropout import Dropout
from recbole_glintru.models.glintru import GLINTRU
from recbole_glintru.ops.cross_entropy import catalogue_cross_entropy
from recbole_glintru.ops.dropout import dropout
from recbole_glintru.ops.histories.grouping import Costs

INVARIANT = "SASRec GRU4Rec NARM BERT4Rec CORE SRGNN GCSAN SASRecF GRU4RecF FDSA S3Rec FPMC TransRec".split()
DEPENDENT = {
    "LightSANs": "scores change with the padding of a history, by 0",  # pools over the padding
    "STAMP": "scores change with the padding of a history, by 0",  # sums the padding's embedding, which is not zero
    "NextItNet": "scores change",  # reads the last position, padding or not
    "NPE": "scores change",
    "HRM": "scores change",
    "SHAN": "scores of all items change",
    "GRU4RecCPR": "scores of all items change",
    "SASRecCPR": "forward returns a list",
    "Caser": "fails without the padding",
    "HGN": "fails without the padding",
    "FOSSIL": "fails without the padding",
    "SINE": "fails without the padding",
    "FEARec": "fails without the padding",
    "RepeatNet": "fails without the padding",
    "DIN": "fails without the padding",
    "DIEN": "need more than histories, items and users",
}
LENGTH = 12
SMALL = {
    "user_inter_num_interval": "[0,21]",
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"], "item": ["item_id", "class"]},
    "selected_features": ["class"],
    "item_attribute": "class",
    "train_stage": "pretrain",  # of S3Rec: the other one reads a file
    "hidden_size": 16,
    "embedding_size": 16,
    "n_heads": 2,
    "show_progress": False,
    "train_batch_size": 64,
    "eval_batch_size": 105,  # five users
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "uni20"},
}


class Case:
    """A model as RecBole makes it, a batch that it is trained on, one that it scores, one that it ranks."""

    def __init__(self, name, **changes):
        self.config = Config(model=name, dataset="ml-100k", config_dict={**SMALL, **changes})
        self.dataset = create_dataset(self.config)
        init_seed(1, True)
        self.train_data, valid_data, _ = data_preparation(self.config, self.dataset)
        self.model = get_model(name)(self.config, self.train_data._dataset)
        if name == "S3Rec":
            self.model.train_stage, self.model.loss_type = "finetune", "CE"
            self.model.loss_fct = nn.CrossEntropyLoss()
        self.name = name
        self.training = next(iter(self.train_data))
        self.scoring = next(iter(valid_data))[0]
        rows = torch.arange(0, len(self.scoring), 21)
        self.ranking = Interaction({key: self.scoring[key][rows] for key in self.scoring.columns})


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Cases by name, each made once; the model is a fresh copy every time."""
    made = {}
    logging.getLogger().setLevel(logging.ERROR)

    def make(name):
        if name not in made:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(tmp_path_factory.getbasetemp())
                patch.setattr("sys.argv", ["test"])
                made[name] = Case(name)
        again = copy.copy(made[name])
        again.model = copy.deepcopy(made[name].model)
        return again

    return make


def outcomes(case, model):
    """Scores of a model in evaluation mode, its loss and gradients in training mode with all dropout off."""
    model.eval()
    with torch.no_grad():
        scores = model.predict(copy.deepcopy(case.scoring)), model.full_sort_predict(copy.deepcopy(case.ranking))
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    random.seed(0)
    loss = model.calculate_loss(copy.deepcopy(case.training))
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return scores, loss, gradients


@pytest.mark.parametrize("costs", [Costs(0.0, 0.0), Costs(10.0, 2.0), True], ids=["each-length", "some", "default"])
@pytest.mark.parametrize("name", INVARIANT)
def test_same_results(case, name, costs):
    """Up to float32 rounding: of values around 1 in the scores, of the largest gradient in the gradients."""
    made = case(name)
    expected = outcomes(made, made.model)
    made.model.zero_grad()
    with torch.no_grad():
        twin = copy.deepcopy(made.model)
    assert accelerate(twin, costs) is twin and isinstance(twin, Accelerated)
    scores, loss, gradients = outcomes(made, twin)
    for actual, wanted in zip(scores, expected[0]):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, expected[1], rtol=1e-6, atol=1e-6)
    scale = max(gradient.abs().max() for gradient in expected[2].values() if gradient is not None).item()
    for parameter, wanted in expected[2].items():
        if wanted is None:
            assert gradients[parameter] is None or not gradients[parameter].any(), parameter
        else:
            torch.testing.assert_close(gradients[parameter], wanted, rtol=1e-5, atol=2e-6 * max(1, scale))


@pytest.mark.parametrize("name", DEPENDENT)
def test_others_are_refused(case, name):
    made = case(name)
    state = copy.deepcopy(made.model.state_dict())
    with pytest.raises(NotInvariant, match=f"{name} cannot be accelerated.*{DEPENDENT[name]}"):
        accelerate(made.model)
    assert type(made.model) is get_model(name) and not hasattr(made.model, "_acceleration")
    assert_same_state(made.model.state_dict(), state)


def test_every_sequential_model_has_a_verdict():
    """All of RecBole's, but for the two that need a knowledge graph."""
    known = {kind.__name__ for kind in SequentialRecommender.__subclasses__() if kind.__module__.startswith("recbole.")}
    known |= {"FDSA", "GRU4RecF", "SASRecF", "S3Rec"}
    assert known - {"KSR", "GRU4RecKG"} == {*INVARIANT, *DEPENDENT}


def assert_same_state(actual, expected):
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


# ---------------------------------------------------------------------------------------------------- what it saves


def rows_and_widths(model, table="item_embedding"):
    """What is looked up of the item table, call by call: the shapes of two-dimensional lookups."""
    shapes = []
    getattr(model, table).register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)) if inputs[0].dim() == 2 else None
    )
    return shapes


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "BERT4Rec", "CORE"])
def test_each_history_is_encoded_once(case, name):
    """`uni20`: each of five histories comes 21 times."""
    made = case(name)
    assert len(made.scoring) == 105
    shapes = rows_and_widths(made.model)
    with torch.no_grad():
        made.model.eval().predict(made.scoring)
        assert shapes == [(105, LENGTH)]
        shapes.clear()
        accelerate(made.model)
        shapes.clear()  # of the check
        made.model.predict(made.scoring)
        assert sum(rows for rows, _ in shapes) == 5
        assert max(width for _, width in shapes) <= int(made.scoring["item_length"].max())


def test_a_batch_of_no_histories_has_no_scores(case):
    made = case("SASRec")
    model = accelerate(made.model).eval()
    assert model.full_sort_predict(made.ranking[:0]).shape == (0, model.n_items)
    assert model.predict(made.scoring[:0]).shape == (0,)


def test_training_computes_little_padding(case):
    made = case("SASRec")
    shapes = rows_and_widths(accelerate(made.model, Costs(0.0, 0.0)))
    made.model.train().calculate_loss(made.training)
    assert sum(rows * width for rows, width in shapes) == int(made.training["item_length"].sum())
    assert sum(rows for rows, _ in shapes) == len(made.training), "no history is left out in training"


def masked(model, places):
    """A batch of BERT4Rec's transform: five histories of ten items, masked at these positions."""
    index = torch.tensor([[0] * (2 - len(row)) + row for row in places])
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, model.n_items, (len(places), LENGTH), generator=generator)
    sequence = items * (torch.arange(LENGTH) < 10)
    for row, positions in enumerate(places):
        sequence[row, positions] = model.mask_token
    columns = [sequence, *torch.randint(1, model.n_items, (2, len(places), 2), generator=generator), index]
    return Interaction(dict(zip((model.MASK_ITEM_SEQ, model.POS_ITEMS, model.NEG_ITEMS, model.MASK_INDEX), columns)))


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
@pytest.mark.parametrize(
    "places",
    [[[3], [], [2, 9], [], [0, 5]], [[9]] * 5, [[3], [0], [], [], []], [[], [0], [], [], []]],
    ids=["some", "each", "one", "none"],
)
def test_loss_of_masked_items(case, places, loss_type):
    """BERT4Rec's, whichever items are masked; RecBole counts no mask at position 0, and the mean of none is NaN."""
    made = case("BERT4Rec")
    plain = made.model.train()
    plain.loss_type = loss_type
    for module in plain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    nn.init.normal_(plain.output_bias)
    model = accelerate(copy.deepcopy(plain))
    losses = [one.calculate_loss(masked(one, places)) for one in (plain, model)]
    torch.testing.assert_close(losses[1], losses[0], equal_nan=True)
    if losses[1].isnan():
        return
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_only_masked_items_are_scored(case, monkeypatch):
    """Of BERT4Rec: two of the five histories have no mask that counts, the others four."""
    made, scored = case("BERT4Rec"), []
    model = accelerate(made.model, Costs(0.0, 0.0)).train()
    shapes = rows_and_widths(model)
    monkeypatch.setattr(
        "recbole_glintru.faster_methods.catalogue_cross_entropy",
        lambda states, *others: scored.append(len(states)) or catalogue_cross_entropy(states, *others),
    )
    model.calculate_loss(masked(model, [[3], [], [2, 9], [0], [0, 5]]))
    assert scored == [4]  # places: of [3], both of [2, 9], and 5
    assert sum(rows for rows, _ in shapes) == 3


class SizesOfTensors(TorchDispatchMode):
    """Collects the numbers of elements of all tensors that are computed."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        tree = results if isinstance(results, (tuple, list)) else [results]
        self.sizes.update(one.numel() for one in tree if isinstance(one, torch.Tensor))
        return results


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "NARM", "SRGNN", "SASRecF", "GRU4RecF", "FDSA"])
def test_the_loss_has_no_tensor_of_all_scores(case, name, monkeypatch):
    for limit in ("PIECE", "LARGEST_PIECE"):
        monkeypatch.setattr(f"recbole_glintru.ops.cross_entropy.{limit}", 1000)
    made = case(name)
    all_scores = len(made.training) * made.model.item_embedding.weight.shape[0]
    with SizesOfTensors() as plain:
        made.model.train().calculate_loss(copy.deepcopy(made.training))
    model = accelerate(made.model)
    with SizesOfTensors() as accelerated:
        model.calculate_loss(copy.deepcopy(made.training)).backward()
    assert all_scores in plain.sizes and all_scores not in accelerated.sizes


@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"reduction": "sum"}, {"ignore_index": 1}], ids=str)
def test_an_own_criterion_is_kept(case, options):
    made = case("SASRec")
    batch = copy.deepcopy(made.training)
    batch[made.model.POS_ITEM_ID][::2] = 1  # of which `ignore_index` leaves none
    made.model.loss_fct = nn.CrossEntropyLoss(**options)
    expected = made.model.eval().calculate_loss(batch)
    torch.testing.assert_close(accelerate(made.model).calculate_loss(batch), expected)


def test_sampled_negatives_keep_their_loss(case):
    made = case("GRU4Rec")
    model, batch = made.model.eval(), copy.deepcopy(made.training)
    model.loss_type, model.loss_fct = "BPR", BPRLoss()
    batch[model.NEG_ITEM_ID] = batch[model.POS_ITEM_ID].flip(0)
    expected = model.calculate_loss(batch)
    torch.testing.assert_close(accelerate(model).calculate_loss(batch), expected)


@pytest.mark.parametrize("name", ["BERT4Rec", "SASRec"])
def test_a_loss_of_its_own_is_kept(case, name):
    """A model that changes RecBole's loss is trained with what it changes it to."""

    class Doubled(get_model(name)):
        def calculate_loss(self, interaction):
            return 2 * super().calculate_loss(interaction)

    made = case(name)
    model = Doubled(made.config, made.train_data._dataset).eval()
    batch = masked(model, [[3], [], [2, 9], [], [0, 5]]) if name == "BERT4Rec" else made.training
    expected = model.calculate_loss(batch)
    torch.testing.assert_close(accelerate(model).calculate_loss(batch), expected)


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec"])
def test_dropout_differs_between_equal_histories(case, name):
    """In training mode a history that comes twice is encoded twice: `predict` leaves dropout alone."""
    made = case(name)
    twice = made.ranking.repeat_interleave(2)
    scores = accelerate(made.model).train().predict(twice).view(-1, 2)
    assert (scores[:, 0] != scores[:, 1]).all()


def test_dropout_draws_the_packages_numbers(case):
    """Of each module's own probability; a dropout of another kind, or in place, stays what it is."""
    made = case("SASRec")
    made.model.in_place, made.model.whole_channels = nn.Dropout(0.5, inplace=True), nn.Dropout1d(0.5)
    made.model.dropout.p = 0.25
    accelerate(made.model)
    kinds = {name: type(module) for name, module in made.model.named_modules() if isinstance(module, nn.Dropout)}
    assert kinds.pop("in_place") is nn.Dropout and len(kinds) == 7 and set(kinds.values()) == {Dropout}
    assert type(made.model.whole_channels) is nn.Dropout1d
    ones = torch.ones(1 << 14)
    torch.manual_seed(0)
    dropped = made.model.dropout.train()(ones)
    torch.manual_seed(0)
    torch.testing.assert_close(dropped, dropout(ones, 0.25, training=True), rtol=0, atol=0)
    assert torch.equal(made.model.dropout.eval()(ones), ones)


# ------------------------------------------------------------------------------------------------ what it leaves alone


def test_nothing_else_changes(case):
    made = case("GCSAN")
    model = made.model.train()
    model.self_attention.eval()
    model.calculate_loss(made.training).backward()
    state, gradients = copy.deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    storages = [parameter.data_ptr() for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    attributes = {key: type(value) for key, value in vars(model).items()}
    accelerate(model)
    assert torch.equal(torch.get_rng_state(), generators[0]) and random.getstate() == generators[1]
    assert np.random.get_state()[1].tolist() == generators[2]
    assert [module.training for module in model.modules()] == modes
    assert [parameter.data_ptr() for parameter in model.parameters()] == storages
    assert_same_state(model.state_dict(), state)
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients))
    assert {key: type(value) for key, value in vars(model).items() if key != "_acceleration"} == attributes
    assert type(model).__name__ == "GCSAN" and isinstance(model, get_model("GCSAN"))


def test_a_default_device_of_the_users_is_no_obstacle(case):
    """`torch.set_default_device`: the check makes its own tensors on the CPU."""
    model = case("GRU4Rec").model
    with torch.device("meta"):
        assert isinstance(accelerate(model), Accelerated)


def test_copies_and_pickles(case):
    """RecBole counts FLOPs on a copy."""
    made = case("GRU4Rec")
    model = accelerate(made.model).eval()
    for again in copy.deepcopy(model), pickle.loads(pickle.dumps(model)):
        assert type(again) is type(model)
        again.item_embedding.weight.data.zero_()
        assert not again.predict(made.scoring).any() and model.predict(made.scoring).any()


def test_accelerating_twice_or_our_own_does_nothing(case):
    model = accelerate(case("SASRec").model)
    assert accelerate(model) is model and type(model).__mro__.count(Accelerated) == 1
    own = GLINTRU.__new__(GLINTRU)
    assert accelerate(own) is own and type(own) is GLINTRU


def test_what_is_no_sequential_model_is_refused():
    with pytest.raises(NotInvariant, match="BPR cannot be accelerated: it is not a sequential model"):
        accelerate(get_model("BPR").__new__(get_model("BPR")))


# ----------------------------------------------------------------------------------------------------------- the check


class HiddenDependence(SequentialRecommender):
    """A model whose dependence on padding cannot be seen at the start: the bias that carries it is zero."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_embedding = nn.Embedding(self.n_items, 4, padding_idx=0)
        self.linear = nn.Linear(4, 4)
        nn.init.zeros_(self.linear.bias)

    def forward(self, item_seq):
        return self.linear(self.item_embedding(item_seq)).sum(dim=1)

    def full_sort_predict(self, interaction):
        return self.forward(interaction[self.ITEM_SEQ]) @ self.item_embedding.weight.T

    def calculate_loss(self, interaction):
        return nn.functional.cross_entropy(self.full_sort_predict(interaction), interaction[self.ITEM_ID])


class InBatches(HiddenDependence):
    """A model whose rows depend on each other in training, and in training alone."""

    def forward(self, item_seq):
        states = self.item_embedding(item_seq).sum(dim=1)
        return states - states.mean(dim=0) if self.training else states


class AcrossRows(HiddenDependence):
    """A model whose states depend on how many histories are scored with them."""

    def forward(self, item_seq):
        return self.item_embedding(item_seq).sum(dim=1) / len(item_seq)

    def predict(self, interaction):
        return (self.forward(interaction[self.ITEM_SEQ]) * self.item_embedding(interaction[self.ITEM_ID])).sum(dim=1)

    def full_sort_predict(self, interaction):
        return self.item_embedding(interaction[self.ITEM_SEQ]).sum(dim=1) @ self.item_embedding.weight.T


class TwoLayers(HiddenDependence):
    """A recurrence with a dropout of its own between its layers, and a table of all items among its arguments."""

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.gru = nn.GRU(4, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, item_seq, table, item_seq_len):
        states, _ = self.gru(table[item_seq])
        return self.gather_indexes(states, item_seq_len - 1)

    def full_sort_predict(self, interaction):
        table = self.item_embedding.weight
        return self.forward(interaction[self.ITEM_SEQ], table, interaction[self.ITEM_SEQ_LEN]) @ table.T


@pytest.mark.parametrize("n_items", [7, 16, 30])
def test_a_table_as_long_as_the_batch_is_not_cut(case, n_items):
    """There are as many items as one of the check's batches has rows (16), or as a later batch has."""
    made = case("SASRec")
    model = TwoLayers(made.config, made.train_data._dataset)
    model.n_items, model.item_embedding = n_items, nn.Embedding(n_items, 4, padding_idx=0)
    item_seq_len = torch.arange(n_items) % LENGTH + 1
    item_seq = torch.randint(1, n_items, (n_items, LENGTH)) * (torch.arange(LENGTH) < item_seq_len.unsqueeze(1))
    batch = Interaction({"item_id_list": item_seq, "item_length": item_seq_len})
    expected = model.eval().full_sort_predict(batch)
    torch.testing.assert_close(accelerate(model, Costs(0.0, 0.0)).full_sort_predict(batch), expected)


@pytest.mark.parametrize(
    "kind, reason",
    [(HiddenDependence, "scores of all items"), (InBatches, "loss or gradients"), (AcrossRows, "scores change")],
)
def test_what_training_would_bring_out_is_found(case, kind, reason):
    made = case("SASRec")
    model = kind(made.config, made.train_data._dataset)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(NotInvariant, match=reason):
        accelerate(model)
    assert_same_state(model.state_dict(), state)


def test_rounding_is_told_from_a_dependence():
    one = torch.tensor([1.0, -float("inf"), 1e-9])
    assert padding_check._largest_difference([one], [one * (1 + 1e-6)]) < padding_check.TOLERANCE
    assert padding_check._largest_difference([one], [one + 1e-4]) > padding_check.TOLERANCE
    assert not padding_check._largest_difference([one], [one * float("nan")]) <= padding_check.TOLERANCE
    assert padding_check._largest_difference([one], [one[:2]]) == float("inf")


def test_a_wide_recurrent_model_is_accepted():
    """Its perturbed weights must not make it chaotic, or rounding would look like a dependence."""
    own = {"embedding_size": 8, "hidden_size": 768, "num_layers": 1, "dropout_prob": 0.0, "MAX_ITEM_LIST_LENGTH": 100}
    model = get_model("GRU4Rec")(Settings({**BASE, **own, "loss_type": "CE"}), ItemTable(30))
    assert isinstance(accelerate(model), Accelerated)


@pytest.mark.parametrize("given", [(7, 3), [7, 3], Costs(7.0, 3.0)])
def test_the_groups_of_the_function_are_those_of_the_key(case, given):
    assert accelerate(case("GRU4Rec").model, given)._acceleration.length_groups == Costs(7.0, 3.0)


def test_groups_that_do_not_exist_are_refused(case):
    model = case("GRU4Rec").model
    with pytest.raises(ValueError, match="length_groups='mesured': must be True, False, measured, or two"):
        accelerate(model, "mesured")
    assert not isinstance(model, Accelerated)


# ------------------------------------------------------------------------------------------------------- inside RecBole


def test_the_key_accelerates(case, workplace):
    made = case("SASRec")
    for value, kind in ((None, SequentialRecommender), (False, SequentialRecommender), (True, Accelerated)):
        config = copy.copy(made.config)
        config.final_config_dict = {**made.config.final_config_dict, "accelerate": value, "length_groups": [7, 3]}
        model = copy.deepcopy(made.model)
        trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
        assert isinstance(trainer.model, kind) and isinstance(trainer.model, Accelerated) == (kind is Accelerated)
    assert model._acceleration.length_groups == Costs(7.0, 3.0)
    config.final_config_dict["accelerate"] = "yes"
    with pytest.raises(ValueError, match="accelerate='yes': must be True or False"):
        get_trainer(config["MODEL_TYPE"], "SASRec")(config, copy.deepcopy(made.model))


def test_a_run_and_its_checkpoint(workplace, tiny):
    """Without dropout a run is the same with and without; its checkpoint loads into the plain model, and back."""
    off = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "n_heads": 2, "train_neg_sample_args": None}
    runs = {}
    for key in (False, True):
        settings = {**tiny, **off, "accelerate": key, "checkpoint_dir": f"saved_{key}"}
        runs[key] = run_recbole(model="SASRec", dataset="ml-100k", config_dict=settings)
    for part in ("best_valid_result", "test_result"):
        assert runs[True][part] == pytest.approx(runs[False][part], abs=2e-3)  # a tie in float32 moves one user
    plain, accelerated = (
        torch.load(next((workplace / f"saved_{key}").glob("*.pth")), weights_only=False)["state_dict"]
        for key in (False, True)
    )
    assert list(plain) == list(accelerated)
    for name, weight in plain.items():
        torch.testing.assert_close(accelerated[name], weight, rtol=0, atol=1e-3)  # Adam magnifies rounding to its rate


def test_the_launcher_says_why_not(workplace, capsys):
    settings = ["--user_inter_num_interval=[0,21]", "--epochs=1", "--MAX_ITEM_LIST_LENGTH=10", "--hidden_size=16"]
    assert command.main(["--model=LightSANs", "--protocol=none", "--accelerate=True", *settings]) == 2
    error = capsys.readouterr().err
    assert "error: LightSANs cannot be accelerated: its scores change with the padding of a history, by 0." in error
    assert "Traceback" not in error
