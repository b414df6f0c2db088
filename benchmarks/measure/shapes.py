"""Data of the size and shape of the paper's data sets, so that measuring needs no download.

A shape consists of counts: the numbers of users, items and interactions, and how interactions spread over users and
over items, as means of slices of the sorted counts (see `SLICES`). Histories made from it are as long as the real ones:
the mean over the training rows is within 1 % (118.4 against 118.5 positions on MovieLens-1M, 8.9 against 9.0 on Beauty,
12.2 against 12.3 on Video Games), that over the evaluation histories within 0.1 %. Items are drawn by popularity alone,
so nothing can be learnt from them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Shares of the users, or of the items, sorted by their interactions: finer for the few with many.
SLICES = (
    *(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9),
    *(0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.9995, 1.0),
)


@dataclass(frozen=True)
class Shape:
    """The counts of a data set.

    Attributes:
        dataset: its name in RecBole; its settings in `properties/dataset/` apply.
        users, items, interactions: their numbers, without padding.
        per_user, per_item: mean interactions in each slice, fewest first.
        features: columns of the item file: name -> (type, number of values, values per item).
    """

    dataset: str
    users: int
    items: int
    interactions: int
    per_user: tuple[float, ...]
    per_item: tuple[float, ...]
    features: dict[str, tuple[str, int, int]]

    @property
    def training_rows(self) -> int:
        """Rows of RecBole's training data: all of a user's items except the first and the two held out."""
        return self.interactions - 3 * self.users


SHAPES = {
    "ml-1m": Shape(
        "ml-1m",
        users=6040,
        items=3706,
        interactions=1_000_209,
        per_user=(
            *(23.2, 32.3, 44.2, 59.9, 81.5, 110.1, 148.5, 190.4, 228.1, 281.5),
            *(351.0, 428.1, 509.7, 618.7, 736.0, 843.2, 974.7, 1186.3, 1381.9, 1969.0),
        ),
        per_item=(
            *(2.9, 14.3, 33.1, 58.1, 97.6, 154.4, 230.5, 313.2, 385.4, 484.5),
            *(635.2, 789.2, 950.9, 1150.8, 1366.5, 1615.2, 2087.1, 2458.1, 2769.4, 3209.5),
        ),
        features={
            "genre": ("token_seq", 18, 2),
            "movie_title": ("token_seq", 4982, 3),
            "release_year": ("token", 81, 1),
        },
    ),
    "beauty": Shape(
        "amazon-beauty",
        users=22_363,
        items=12_101,
        interactions=198_502,
        per_user=(
            *(5.0, 5.0, 5.0, 5.8, 6.0, 6.9, 7.7, 8.8, 9.6, 11.0),
            *(13.0, 15.4, 18.4, 23.2, 28.7, 36.4, 48.7, 66.7, 92.9, 151.8),
        ),
        per_item=(
            *(5.0, 5.2, 6.0, 6.8, 8.0, 9.6, 12.0, 14.8, 17.5, 21.7),
            *(28.6, 38.0, 49.3, 65.1, 82.2, 99.2, 124.5, 173.4, 257.6, 378.5),
        ),
        features={"categories": ("token_seq", 202, 3), "brand": ("token", 435, 1)},
    ),
    "games": Shape(
        "amazon-video-games",
        users=24_303,
        items=10_672,
        interactions=231_780,
        per_user=(
            *(5.0, 5.0, 5.0, 5.9, 6.1, 7.0, 8.2, 9.1, 10.2, 11.6),
            *(13.9, 16.7, 20.1, 25.2, 32.0, 41.8, 58.9, 79.3, 126.1, 369.8),
        ),
        per_item=(
            *(5.0, 5.7, 6.7, 8.2, 9.9, 12.4, 16.0, 20.3, 24.3, 30.1),
            *(39.1, 50.6, 63.2, 83.1, 112.5, 144.2, 198.9, 258.0, 348.8, 576.6),
        ),
        features={"categories": ("token_seq", 71, 1)},
    ),
}


def counts(means: tuple[float, ...], number: int) -> np.ndarray:
    """Interactions of each of `number` users or items: `[number] int64`, ascending, with the means of the slices."""
    places = (np.arange(number) + 0.5) / number
    exact = np.asarray(means)[np.searchsorted(SLICES, places, side="right") - 1]
    return np.diff(np.floor(np.cumsum(exact) + 0.5), prepend=0).astype(np.int64)


def training_lengths(shape: Shape, rows: int, longest: int, seed: int = 0) -> np.ndarray:
    """Lengths of training histories, drawn from all rows of all users: `[rows] int64`, from 1 to `longest`."""
    of_users = counts(shape.per_user, shape.users)
    user = np.random.default_rng(seed).choice(of_users, rows, p=(of_users - 3) / (of_users - 3).sum())
    position = np.random.default_rng(seed + 1).random(rows)
    return np.minimum(1 + (position * (user - 3)).astype(np.int64), longest)


def write_atomic_files(shape: Shape, folder: Path, users: int, seed: int = 0) -> None:
    """Write `<folder>/<dataset>/<dataset>.inter` and `.item`, as RecBole reads them.

    Args:
        shape: their shape; the item file has all its items.
        folder: RecBole's `data_path`.
        users: the number of users to write, with the spread of all.
        seed: for drawing items.
    """
    generator = np.random.default_rng(seed)
    place = folder / shape.dataset
    place.mkdir(parents=True)
    of_users = generator.permutation(counts(shape.per_user, users))
    popularity = counts(shape.per_item, shape.items)
    items = generator.choice(shape.items, of_users.sum(), p=popularity / popularity.sum())
    owners = np.repeat(np.arange(users), of_users)
    with (place / f"{shape.dataset}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        file.writelines(f"u{user}\ti{item}\t{time}\n" for time, (user, item) in enumerate(zip(owners, items)))
    with (place / f"{shape.dataset}.item").open("w", encoding="utf-8") as file:
        columns = [f"{name}:{kind}" for name, (kind, _, _) in shape.features.items()]
        file.write("\t".join(["item_id:token", *columns]) + "\n")
        drawn = [generator.integers(values, size=(shape.items, many)) for _, values, many in shape.features.values()]
        for item in range(shape.items):
            cells = [" ".join(f"v{value}" for value in column[item]) for column in drawn]
            file.write("\t".join([f"i{item}", *cells]) + "\n")
