"""A package that is not installed: which one, and the words that install it. Imports nothing heavy."""

import re
from importlib.metadata import PackageNotFoundError, requires

# Where the name to import, or the part of a package that has what is asked for, is not the name to install.
_DISTRIBUTIONS = {
    "hydra_plugins.hydra_optuna_sweeper": "hydra-optuna-sweeper",
    "hydra_plugins.hydra_joblib_launcher": "hydra-joblib-launcher",
    "hydra_plugins.hydra_submitit_launcher": "hydra-submitit-launcher",
    "hydra_plugins.hydra_ray_launcher": "hydra-ray-launcher",
    "optuna": "hydra-optuna-sweeper",
    "joblib": "hydra-joblib-launcher",
    "ray": "hydra-ray-launcher",
    "submitit": "hydra-submitit-launcher",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
}


def missing_package(error: BaseException) -> str | None:
    """The package that an import has not found, by its name to import; None for any other error."""
    if not isinstance(error, ImportError):
        return None
    # Lightning's words, where it looks before it imports.
    told = re.match(r"Requirement '([\w-]+)[^']*' not met", str(error)) or re.search(
        r"`?([\w-]+)`? (?:is|are) not installed", str(error)
    )
    if told is not None:
        return told[1]
    return error.name if isinstance(error, ModuleNotFoundError) else None


def how_to_install(package: str) -> str:
    """What to type for a package: of the project's extras the one that brings it, else the package by itself.

    >>> how_to_install("wandb")
    "pip install -e '.[loggers]'"
    """
    parts = package.split(".")
    name = _DISTRIBUTIONS.get(".".join(parts[:2]), _DISTRIBUTIONS.get(parts[0], parts[0]))
    extras = [extra for extra in extras_with(name) if extra != "dev"]
    return f"pip install -e '.[{extras[0]}]'" if extras else f"pip install {name}"


def extras_with(distribution: str) -> list[str]:
    """The extras of this project that bring a package."""
    try:
        lines = requires("metronome") or []
    except PackageNotFoundError:  # on the path, not installed
        return []
    plain = distribution.lower().replace("_", "-")
    found = [re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", line) for line in lines]
    return [hit[2] for hit in found if hit is not None and hit[1].lower().replace("_", "-") == plain]
