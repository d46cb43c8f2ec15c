"""The recipe of the embedded model `mini-vl`: drawn scenes, what is said about them, and the training."""
