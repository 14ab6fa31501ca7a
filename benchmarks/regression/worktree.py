"""A commit beside the working tree: checked out into a folder of its own, with its library, until it is done with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# what the library is compiled from
COMPILED = ("*.cpp", "*.h", "setup.py")
BUILT = ("fastsaddle/_native.so", "fastsaddle/_native_build.txt")


def git(root: Path, *words: str) -> str:
    """What git says.

    Raises:
        ValueError: git fails; its own words.
        OSError: git is not installed.
    """
    # hooks of git set variables that would lead it to another folder
    clean = {n: v for n, v in os.environ.items() if not n.startswith("GIT_")}
    command = ["git", "-C", str(root), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=clean)
    except FileNotFoundError as error:
        raise OSError("git is needed to check a commit out, and is not installed") from error
    if done.returncode:
        raise ValueError(f"git {' '.join(words)}: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def commit_named(root: Path, name: str) -> str:
    """The full hash of the commit that a branch, a tag or a part of a hash names.

    Raises:
        ValueError: no such commit, or the folder is no checkout of git.
        OSError: git is not installed.
    """
    git(root, "rev-parse", "--git-dir")
    try:
        return git(root, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
    except ValueError as error:
        raise ValueError(f"{name} is no commit of this repository") from error


@contextmanager
def checked_out(root: Path, commit: str, folder: Path) -> Iterator[Path]:
    """The commit in `folder`, which must not be there yet, its library compiled; both are gone afterwards.

    Where no C++ source differs, the library is the working tree's.

    Raises:
        ValueError: git refuses.
        OSError: the build cannot be started, or failed.
    """
    try:
        git(root, "worktree", "add", "--detach", "--force", str(folder), commit)
        differ = git(root, "diff", "--name-only", commit, "--", *COMPILED)
        new = git(root, "ls-files", "--others", "--exclude-standard", "--", *COMPILED)
        library = root / BUILT[0]
        if library.exists() and not (differ or new):
            for name in BUILT:
                shutil.copy2(root / name, folder / name)
        else:
            build(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        git(root, "worktree", "prune")


def build(folder: Path) -> None:
    """Compile the library of a checkout in place. Raises OSError with what was said where that fails."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(f"{done.stdout} {done.stderr}".split())
        raise OSError(f"{' '.join(command)} in {folder} failed: {said[-500:]}")
