"""The batch of histories itself: which positions are real, which rows are alike, lengths that the host knows."""
