"""The models, one file each, named as RecBole names its own: class `GLINTRU` in `glintru.py`."""
