"""The embedded model `mini-sinks`: its text, its recipe, its training and its card."""
