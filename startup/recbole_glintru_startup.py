"""Run by `recbole_glintru.pth` whenever Python starts: waits for `import recbole` and then imports recbole_glintru.

It waits for `import ray.tune` too: a worker of Ray's imports that first, and Ray 2.6.3 needs a mend of it on NumPy 2.

Nothing is imported before that. `RECBOLE_GLINTRU_AUTOLOAD=0` in the environment turns it off.
"""

import sys


class _WaitForRecBole:
    """A finder that finds nothing: the first sight of `recbole` or `ray.tune` makes it import the plugin and go."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in ("recbole", "ray.tune") and cls in sys.meta_path:
            sys.meta_path.remove(cls)
            try:
                import recbole_glintru  # noqa: F401
            except ModuleNotFoundError:
                pass  # RecBole itself is missing, or this package is: Python's own error says it best
            except ImportError as error:  # another RecBole, which may do without the package
                import warnings

                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        return None


def wait_for_recbole():
    """Put the finder in front of all others, once."""
    if _WaitForRecBole not in sys.meta_path:
        sys.meta_path.insert(0, _WaitForRecBole)
