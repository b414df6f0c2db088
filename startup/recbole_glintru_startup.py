"""Run by `recbole_glintru.pth` whenever Python starts: waits for `import recbole` and then imports recbole_glintru.

It also waits for `import ray.tune`: a Ray worker imports that first, and Ray 2.6.3 needs a patch on NumPy 2.

Nothing is imported before that. `RECBOLE_GLINTRU_AUTOLOAD=0` in the environment turns it off.
"""

import sys


class _WaitForRecBole:
    """Finds nothing, but at the first import of `recbole` or `ray.tune` removes itself and imports the plugin."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("recbole", "ray.tune") and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            try:
                import recbole_glintru  # noqa: F401
            except ModuleNotFoundError:
                pass  # RecBole or this package is missing: Python's own error says so best
            except ImportError as error:  # another version of RecBole, which may be used without this package
                import warnings

                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return None


def wait_for_recbole():
    """Put the finder in front of all others, once."""
    if _WaitForRecBole not in sys.meta_path:
        sys.meta_path.insert(0, _WaitForRecBole)
