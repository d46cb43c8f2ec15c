"""The models that come with this package, and those already on this machine."""

from __future__ import annotations

from pathlib import Path

from interp.paths import data_dir


def embedded_names() -> list[str]:
    """Names that `interp.load` finds without a network."""
    return sorted(path.parent.name for path in (data_dir() / "models").glob("*/config.json"))


def embedded_path(name: str) -> Path | None:
    """Directory of an embedded model; None for any other name."""
    return data_dir() / "models" / name if name in embedded_names() else None


def cached_names() -> list[str]:
    """Hub ids whose files are in the local Hugging Face cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        return sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        return []
