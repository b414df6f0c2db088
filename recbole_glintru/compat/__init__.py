"""What RecBole 1.2.1 needs on current libraries and in several processes: one small function per patch.

`plugin.py` runs a patch right after the body of the module named in its decorator (`@after`), or around it (`@around`).
Every docstring says what breaks without the patch, where, and with which versions; a patch does nothing where nothing
breaks. All can be removed with a RecBole release that needs none; an earlier end is stated where there is one. Line
numbers are those of RecBole 1.2.1.
"""

from recbole_glintru.compat import (  # noqa: F401  their patches enter the tables of import_hooks
    defects,
    libraries,
    process_failures,
    process_shares,
    processes,
    tuning,
)
