"""The selective scan of Mamba and its backends."""
