"""Which combinations are for training and which are held out, the same on every machine and in every run."""

from hashlib import blake2b

from interp.errors import InputError

SPLITS = ("train", "test")
TEST_SHARE = 0.2


def check_split(split: str) -> None:
    """Raises InputError for anything but the two splits."""
    if split not in SPLITS:
        raise InputError(f"Unknown split {split!r}; choose 'train' or 'test'.")


def stable_number(*parts: str) -> int:
    """A number in [0, 2**64) that depends on the words only, never on the process, as Python's own `hash` does."""
    return int.from_bytes(blake2b("|".join(parts).encode(), digest_size=8).digest(), "big")


def in_split(split: str, *parts: str) -> bool:
    """Whether the combination of these words belongs to the split; one combination in five is held out for `test`."""
    held_out = stable_number(*parts) < TEST_SHARE * 2**64
    return held_out == (split == "test")
