"""placeholder"""
import sys
AFTER, AROUND = {}, {}


def after(module):
    def add(mend):
        AFTER.setdefault(module, []).append(mend)
        return mend
    return add


def rebind(old, new):
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is old:
                setattr(module, name, new)
