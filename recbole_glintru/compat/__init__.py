"""What RecBole 1.2.1 needs on today's libraries and in several processes: one small function a mend.

`plugin.py` runs a mend right after the body of the module that it names (`@after`), or around it (`@around`). Every
mend says what breaks without it, where, and with which versions, and does nothing where nothing breaks. All of them
can go with a RecBole release that needs none; a narrower end is stated where there is one. Line numbers are those of
RecBole 1.2.1.
"""

from recbole_glintru.compat import (  # noqa: F401  their mends enter the tables of import_hooks
    defects,
    libraries,
    process_failures,
    process_shares,
    processes,
    tuning,
)
