"""GLINT-RU and the efficient sequential recommenders as RecBole models.

Importing this package makes RecBole find its models: `recbole.quick_start.run_recbole(model="GLINTRU", ...)`.
"""

from importlib.metadata import PackageNotFoundError as _NotInstalled
from importlib.metadata import version as _version
from importlib.util import find_spec as _find_spec

__version__ = "0.1.0"


def _check_recbole():
    """Require RecBole 1.2.1 or later; on Python 3.12 and later `pip install recbole` finds only 1.2.0, which fails."""
    line = "Run:  pip install --no-deps recbole==1.2.1"
    if _find_spec("recbole") is None:
        raise ModuleNotFoundError(
            f"recbole_glintru needs RecBole 1.2.1, which is not installed. {line}", name="recbole"
        )
    try:
        installed = _version("recbole")
    except _NotInstalled:
        return  # RecBole is on the path as sources
    if [int(part) for part in installed.split(".")[:3] if part.isdigit()] < [1, 2, 1]:
        raise ImportError(f"recbole_glintru needs RecBole 1.2.1, but {installed} is installed. {line}", name="recbole")


_check_recbole()

# These two are imported because they register functions in the tables of `compat/import_hooks.py`.
from recbole_glintru import additions as _additions  # noqa: E402, F401
from recbole_glintru import compat as _compat  # noqa: E402, F401
from recbole_glintru import plugin as _plugin  # noqa: E402

_plugin.register()
