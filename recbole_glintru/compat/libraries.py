"""Patches of RecBole 1.2.1 for current NumPy, pandas, PyTorch and SciPy, and for a Python without distutils."""

import contextlib
import functools
import importlib.util
import types
import warnings

from recbole_glintru.compat.import_hooks import Overlay, after, around, called_by_recbole, stand_ins

# -------------------------------------------------------------------------------------------------------------- NumPy


@after("recbole.utils.utils")
def numpy_aliases(utils) -> None:
    """Defines `np.float_`, `np.float` and the other aliases that RecBole reads.

    Without: NumPy 2 has no `np.float_`, `np.complex_`, `np.unicode_` (configurator.py:625-635: no `Config` at all);
    NumPy 1.24 and later have no `np.float` until a `Config` has defined it (interaction.py:31: no `Interaction`).
    """
    np = utils.np
    aliases = {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_, "bool": np.bool_}
    aliases.update(int=np.int_, float=np.float64, object=np.object_, str=np.str_, long=np.int_)
    for name, value in aliases.items():
        if name not in vars(np):
            setattr(np, name, value)


# ------------------------------------------------------------------------------------------------------------ PyTorch


@after("recbole.utils.utils")
def checkpoints_load(utils) -> None:
    """`torch.load`, when called by RecBole, reads its checkpoints through the restricted reader of `checkpoints/`.

    Without: PyTorch 2.6 and later read with `weights_only=True`, which rejects a pickled `Config` (trainer.py:323 and
    :583, quick_start.py:250, and the models that load pretrained files). Before 2.6 any pickle would be executed.
    Calls from elsewhere, and calls that set `weights_only`, are left alone.
    """
    torch = utils.torch
    load = torch.load
    if hasattr(load, "_reads_recbole_checkpoints"):
        return

    @functools.wraps(load)
    def load_checkpoint(*args, **kwargs):
        if "weights_only" in kwargs or not called_by_recbole():
            return load(*args, **kwargs)
        from recbole_glintru import checkpoints

        return checkpoints.load(load, *args, **kwargs)

    load_checkpoint._reads_recbole_checkpoints = True
    torch.load = load_checkpoint


@after("recbole.trainer.trainer")
def checkpoints_of_this_process_load(trainer) -> None:
    """A trainer can load what it has saved, whatever its settings and its model contain.

    Without: the reader refuses unknown content, such as an enum of the user's, after the whole training.
    """
    save = trainer.Trainer._save_checkpoint

    @functools.wraps(save)
    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        save(self, epoch, verbose, **kwargs)
        if self.config["single_spec"] or self.config["local_rank"] == 0:
            from recbole_glintru import checkpoints

            checkpoints.remember(kwargs.get("saved_model_file", self.saved_model_file))

    trainer.Trainer._save_checkpoint = _save_checkpoint


@after("recbole.trainer.trainer")
def gradient_scaler_has_moved(trainer) -> None:
    """`amp.GradScaler`, which RecBole creates in every epoch, is that of `torch.amp`.

    Without: PyTorch 2.4 and later warn in each run that `torch.cuda.amp.GradScaler` is deprecated (trainer.py:235).
    """
    scaler = getattr(trainer.torch.amp, "GradScaler", None)
    if scaler is not None:  # it is None up to PyTorch 2.2
        trainer.amp = Overlay(trainer.amp, GradScaler=functools.partial(scaler, "cuda"))


# ------------------------------------------------------------------------------------------------------------- pandas


@after("recbole.data.dataset.dataset")
def pandas_text_columns(dataset) -> None:
    """Text columns are read as Python objects, and missing sequences as empty ones, as RecBole expects them.

    Without: pandas 3 reads text as its own string type, and `df[field].fillna(value="", inplace=True)`
    (dataset.py:501) changes a copy, with a warning: a missing sequence stays NaN and has no `split`.
    """
    pandas = dataset.pd
    if _major(pandas) < 3:
        return

    def read_csv(*args, **kwargs):
        frame = pandas.read_csv(*args, **kwargs)
        for column, kind in kwargs.get("dtype", {}).items():
            if kind is str:
                frame[column] = frame[column].astype(object)
                if column.endswith("_seq"):  # the header's field:token_seq or field:float_seq
                    frame[column] = frame[column].fillna("")
        return frame

    dataset.pd = Overlay(pandas, read_csv=read_csv)
    _without_warning(dataset.Dataset, "_load_feat", "A value is being set on a copy")


@after("recbole.data.dataset.dataset")
def pandas_missing_values(dataset) -> None:
    """`Dataset._fill_nan` does fill the missing values.

    Without: pandas 3 silently leaves them missing, because `feat[field].fillna(..., inplace=True)` changes a copy
    (dataset.py:648 and :650): tokens become NaN, later cast to arbitrary ids.
    """
    if _major(dataset.pd) < 3:
        return
    np, kinds = dataset.np, dataset.FeatureType

    def _fill_nan(self):
        self.logger.debug(dataset.set_color("Filling nan", "green"))
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in list(feat):
                kind = self.field2type[field]
                if kind == kinds.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif kind == kinds.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    empty = np.array([], dtype=np.int64 if kind == kinds.TOKEN_SEQ else np.float64)
                    feat[field] = feat[field].map(lambda x, empty=empty: empty if isinstance(x, float) else x)

    dataset.Dataset._fill_nan = _fill_nan


@after("recbole.data.dataset.dataset")
def pandas_lengths(dataset) -> None:
    """`Series.agg(len)`, when called by RecBole, gives the length of each element.

    Without: in pandas 3 it gives the length of the series: every token_seq or float_seq feature fails (dataset.py:712,
    :792, :809, :1217, kg_dataset.py:316, sequential_dataset.py:165).
    """
    series = dataset.pd.Series
    agg = series.agg
    if _major(dataset.pd) < 3 or hasattr(agg, "_takes_len_by_element"):
        return

    @functools.wraps(agg)
    def agg_len(self, func=None, *args, **kwargs):
        if func is len and called_by_recbole():
            return self.map(len)
        return agg(self, func, *args, **kwargs)

    agg_len._takes_len_by_element = True
    series.agg = agg_len


@after("recbole.data.dataset.dataset")
def pandas_read_only_columns(dataset) -> None:
    """`Dataset._dataframe_to_interaction` makes tensors of read-only columns without a warning.

    Without: pandas 3 returns its columns read-only, and each run warns of "undefined behavior" (dataset.py:2202). There
    is none, because the data frame is no longer used once its tensors are made.
    """
    if _major(dataset.pd) >= 3:
        _without_warning(dataset.Dataset, "_dataframe_to_interaction", "The given NumPy array is not writable")


def _without_warning(owner: type, name: str, message: str) -> None:
    """Suppress the warnings of a method that begin with `message`."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def silent(*args, **kwargs):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=message)
            return method(*args, **kwargs)

    setattr(owner, name, silent)


def _major(package) -> int:
    return int(package.__version__.partition(".")[0])


# -------------------------------------------------------------------------------------------------------------- SciPy


@after("scipy.sparse")
def scipy_fills_matrices(sparse) -> None:
    """Defines `dok_matrix._update`, with which RecBole's graph models fill their adjacency matrix.

    Without: newer versions of SciPy have no such method (LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK:
    lightgcn.py:111 and the like).
    """
    if not hasattr(sparse.dok_matrix, "_update"):
        sparse.dok_matrix._update = lambda self, data: self._dict.update(data)


# ------------------------------------------------------------------------------------------------------- distutils


@around("thop")
def thop_finds_distutils():
    """Provides `distutils.version.LooseVersion` for thop, with which RecBole counts FLOPs (utils.py:298).

    Without: Python 3.12 and later have no distutils unless setuptools is installed, and no model can be trained
    through `run_recbole`.
    """
    if importlib.util.find_spec("distutils") is not None:
        return contextlib.nullcontext()
    distutils, version = types.ModuleType("distutils"), types.ModuleType("distutils.version")
    distutils.version, distutils.__path__, version.LooseVersion = version, [], _LooseVersion
    return stand_ins({"distutils": distutils, "distutils.version": version})


@functools.total_ordering
class _LooseVersion:
    """As much of distutils' class as is needed to compare `torch.__version__`: its leading numbers."""

    def __init__(self, version: str):
        self.release = [int(part) for part in version.partition("+")[0].split(".") if part.isdigit()]

    def __eq__(self, other):
        return self.release == other.release

    def __lt__(self, other):
        return self.release < other.release
