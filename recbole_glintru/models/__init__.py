"""The models, one file each, named like RecBole's own: class `GLINTRU` in `glintru.py`."""
