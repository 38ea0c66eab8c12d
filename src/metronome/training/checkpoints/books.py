"""What is known of a run's checkpoints: the best ones, the last one."""

from pathlib import Path
from typing import Any

# What a save changes. A save that fails has changed none of it.
BOOKS = ("best_k_models", "kth_best_model_path", "kth_value", "best_model_path", "best_model_score", "current_score",
          "last_model_path", "_last_global_step_saved", "_last_checkpoint_saved", "_defer_save_until_validation",
          "_last_time_checked")  # fmt: skip


def kept(value: Any) -> Any:
    """A value of the books as it is now."""
    # This is asked for after each step, and only a dict is changed in place.
    return dict(value) if isinstance(value, dict) else value


def moved(state: dict[str, Any], before: Path, here: Path) -> dict[str, Any]:
    """The same books where the best ones now lie in another folder; as they were where they do not."""

    def there(path: str) -> str:
        inside = path and Path(path).is_relative_to(before)
        return str(here / Path(path).relative_to(before)) if inside else path

    best = {there(path): score for path, score in state["best_k_models"].items()}
    if not all(Path(path).exists() for path in best):
        # A new run goes on from another, whose best stays where it is: Lightning removes none outside of its folder.
        is_there = best and all(Path(path).exists() for path in state["best_k_models"])
        return state | {"dirpath": str(here), "last_model_path": ""} if is_there else state
    names = ("best_model_path", "kth_best_model_path", "last_model_path", "last_checkpoint_saved")
    return state | {name: there(state.get(name, "")) for name in names} | {"dirpath": str(here), "best_k_models": best}
