"""GLINT-RU and the efficient sequential recommenders as RecBole models.

Importing this package makes RecBole find its models: `recbole.quick_start.run_recbole(model="GLINTRU", ...)`.
"""

from importlib.util import find_spec as _find_spec

__version__ = "0.1.0"

if _find_spec("recbole") is None:
    raise ModuleNotFoundError(
        "recbole_glintru needs RecBole 1.2.1, which is not installed. Run:  pip install --no-deps recbole==1.2.1",
        name="recbole",
    )

from recbole_glintru import plugin as _plugin  # noqa: E402

_plugin.register()
