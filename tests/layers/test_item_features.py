import pytest
import torch
from fakes import ItemTable, Settings

from recbole_glintru.layers.item_features import ItemFeatures

N_ITEMS, D = 6, 4
YEAR = torch.tensor([0, 1, 2, 2, 3, 1])
BRAND = torch.tensor([0, 2, 1, 0, 2, 2])
GENRE = torch.tensor([[0, 0, 0], [3, 1, 0], [0, 0, 0], [2, 2, 4], [1, 0, 0], [4, 3, 1]])
TITLE = torch.tensor([[0, 0], [1, 2], [3, 0], [4, 5], [5, 1], [2, 2]])
PRICE = torch.tensor([[0.0, 1], [2.5, 1], [0.5, 1], [-1, 1], [3, 1], [0.1, 1]])
FEATURES = {"genre": GENRE, "year": YEAR, "price": PRICE, "title": TITLE, "brand": BRAND}
SIZES = {"price": 2, "title": 9}


def make(selected, features=FEATURES, pooling_mode="mean", numerical_features=("price",), optional=None, load_col=None):
    config = Settings(
        ITEM_ID_FIELD="item_id",
        selected_features=selected,
        optional_features=optional,
        load_col=load_col,
        data_path="no/where",
        dataset="own",
        pooling_mode=pooling_mode,
        numerical_features=list(numerical_features),
    )
    return ItemFeatures(config, ItemTable(N_ITEMS, features, sizes=SIZES), D)


def embed(features, items):
    """The features' vectors alone."""
    return features(items, torch.zeros(*items.shape, D))[..., 1:, :]


@pytest.mark.parametrize("selected", [["year"], ["genre"], ["title", "brand", "genre", "price", "year"]])
def test_fields_stand_in_the_order_of_their_types(selected):
    by_type = ["year", "brand"], ["genre", "title"], ["price"]
    expected = [name for names in by_type for name in selected if name in names]
    assert make(selected).names == expected


def test_the_items_own_vector_is_first():
    items, own = torch.tensor([[1, 0], [5, 3]]), torch.randn(2, 2, D)
    fields = make(["genre", "year"])(items, own)
    assert fields.shape == (2, 2, 3, D)
    assert torch.equal(fields[:, :, 0], own)


def test_no_features_leave_the_items_own_vector():
    features, own = make([]), torch.randn(2, 3, D)
    assert features.n_fields == 1 and not list(features.parameters())
    assert torch.equal(features(torch.ones(2, 3, dtype=torch.long), own), own.unsqueeze(2))


def test_token_fields_share_a_table_and_no_row():
    features = make(["brand", "year"])
    table = features.token_embedding.weight
    assert table.shape == (3 + 4, D)
    for item in range(N_ITEMS):
        expected = torch.stack([table[BRAND[item]], table[3 + YEAR[item]]])
        assert torch.equal(embed(features, torch.tensor(item)), expected)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_token_seq_fields_are_pooled(mode):
    """Against one item, one value at a time; value 0 ends a list, and an empty list is a zero vector."""
    features = make(["genre", "title"], pooling_mode=mode)
    assert features.token_seq_embedding[1].weight.shape == (9, D)
    for item in range(N_ITEMS):
        for field, values in enumerate((GENRE, TITLE)):
            vectors = [features.token_seq_embedding[field].weight[v] for v in values[item] if v]
            if not vectors:
                expected = torch.zeros(D)
            else:
                stacked = torch.stack(vectors)
                expected = {"mean": stacked.mean(0), "sum": stacked.sum(0), "max": stacked.max(0).values}[mode]
            torch.testing.assert_close(embed(features, torch.tensor(item))[field], expected)


def test_a_number_is_a_factor():
    features = make(["price"])
    assert features.float_embedding.weight.shape == (2, D)
    for item in range(N_ITEMS):
        expected = PRICE[item, 0] * features.float_embedding.weight[1]
        torch.testing.assert_close(embed(features, torch.tensor(item))[0], expected)


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_few_and_many_positions_agree(mode):
    """Above as many positions as items every item is pooled once: the same vectors, the same gradients."""
    items = torch.randint(0, N_ITEMS, (5, 7))
    weights = torch.randn(5, 7, 5, D, dtype=torch.float64)
    features = make(list(FEATURES), pooling_mode=mode).double()
    outcomes = []
    for threshold in (N_ITEMS, items.numel() + 1):
        features.n_items = threshold
        features.zero_grad()
        if threshold == N_ITEMS:
            vectors = embed(features, items)
        else:
            vectors = features._embed(items)
        (vectors * weights).sum().backward()
        outcomes.append([vectors.detach(), *(p.grad.clone() for p in features.parameters())])
    assert len(outcomes[0]) == 5
    for many, few in zip(*outcomes):
        torch.testing.assert_close(many, few, rtol=1e-12, atol=1e-12)


def test_values_move_with_the_module_and_are_not_saved():
    features = make(list(FEATURES))
    assert sorted(features.state_dict()) == [
        "float_embedding.weight",
        "token_embedding.weight",
        "token_seq_embedding.0.weight",
        "token_seq_embedding.1.weight",
    ]
    features.to("meta")
    assert {buffer.device.type for buffer in features.buffers()} == {"meta"}
    assert len(list(features.buffers())) == 5


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"selected": ["genre", "colour"]}, "no item feature 'colour'.*has genre, year, price, title, brand"),
        ({"selected": ["item_id"]}, "no item feature 'item_id'"),
        ({"selected": ["user_id"]}, "no item feature 'user_id'"),
        ({"selected": ["genre"], "features": {}}, "no item feature 'genre'.*no item file.*load_col"),
        ({"selected": ["genre"], "features": {}, "load_col": {"item": ["genre"]}}, "there is no no/where/own.item"),
        (
            {"selected": "[genre,brand]"},
            r"selected_features='\[genre,brand\]': must be a list.*in quotes: \['genre', 'bra",
        ),
        ({"selected": ["price"], "numerical_features": ()}, "'price' is a number.*numerical_features"),
        ({"selected": "genre"}, "selected_features='genre': must be a list"),
        ({"selected": ["genre"], "optional": "brand"}, "optional_features='brand': must be a list"),
        ({"selected": ["colour", "brand"], "optional": ["brand"]}, "no item feature 'colour'"),
        ({"selected": [3]}, "must be a list of names"),
        ({"selected": ["genre", "genre"]}, "each feature once"),
        (
            {"selected": ["genre"], "pooling_mode": "median"},
            "pooling_mode='median'.*mean, sum, max",
        ),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_optional_features_may_be_missing(caplog):
    features = make(["colour", "genre", "year"], optional=["colour", "year"])
    assert features.names == ["year", "genre"]
    (said,) = caplog.messages
    assert "leaves out colour. The data set has genre" in said


def test_a_type_without_embedding_is_named():
    from recbole.utils import FeatureType

    table = ItemTable(N_ITEMS, FEATURES)
    table.field2type["genre"] = FeatureType.FLOAT_SEQ
    config = Settings(ITEM_ID_FIELD="item_id", selected_features=["genre"], pooling_mode="mean")
    with pytest.raises(ValueError, match="'genre' is of type float_seq"):
        ItemFeatures(config, table, D)
