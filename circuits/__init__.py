"""Tasks with known answers, the circuits that solve them, and how well a found circuit explains a model."""
