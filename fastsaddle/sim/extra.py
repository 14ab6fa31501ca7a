"""The packages of the extra [sim], which the simulator and the command line need and the core does not."""

from importlib.util import find_spec

# import name -> name for pip
NEEDED = {
    "filelock": "filelock",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tabulate": "tabulate",
    "tyro": "tyro",
    "yaml": "pyyaml",
}


def missing() -> list[str]:
    """Those that are not installed, by their names for pip."""
    return [package for name, package in NEEDED.items() if find_spec(name) is None]


def needs(who: str) -> str | None:
    """What is to be installed before `who` can work; None where all is there."""
    found = missing()
    return f"{who} needs {', '.join(found)}: pip install 'fastsaddle[sim]'" if found else None
