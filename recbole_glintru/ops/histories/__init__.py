"""The batch of histories itself: which positions are real, which rows are equal, and lengths known on the host."""
