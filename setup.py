"""Finds the packages, also where the link to `kernels/` is lost; compiles the CPU library.

The library is torch-free and opened with ctypes: one file for any Python and any torch. Compiling
never fails an installation: without a compiler the wheel is pure, and a report tells the reason.
"""

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_namespace_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

LINK = Path("fastsaddle/kernels")
OPS = LINK if (LINK / "op.py").exists() else Path("kernels")
SOURCES = (".cpp", ".h")
# no fast-math (it changes the process's denormal mode) and no -march=native (a wheel travels)
FLAGS = shlex.split(
    "-shared -O3 -g0 -std=c++17 -ffp-contract=off -fno-math-errno -fvisibility=hidden"
)


def digest_of_sources() -> str:
    """SHA-256 of all C++ sources, compiled in: a library that is older than its sources is noticed."""
    names = sorted(
        p.relative_to(OPS).as_posix() for p in OPS.rglob("*.[ch]*") if p.suffix in SOURCES
    )
    return hashlib.sha256(b"".join((OPS / name).read_bytes() for name in names)).hexdigest()


def run(command: list[str]) -> tuple[bool, str]:
    """Whether the compiler succeeded, and the command with all it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return False, f"{shlex.join(command)}\n{error}\n"
    said = f"{done.stdout}{done.stderr}exit status {done.returncode}"
    return done.returncode == 0, f"{shlex.join(command)}\n{said}\n"


class BuildLibrary(build_ext):
    """Compiles from scratch each time: no object outlives a changed header, flag or compiler."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", "/") + ".so"

    def build_extension(self, ext: Extension) -> None:
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        library.unlink(missing_ok=True)
        # compilers that do not take GCC's options have no such attribute
        compiler = getattr(self.compiler, "compiler_so_cxx", ["c++"])
        report = ""
        for openmp in (["-fopenmp"], []):
            stamp = f'-DFS_SOURCES="{digest_of_sources()}"'
            command = [*compiler, *FLAGS, stamp, *openmp, *ext.sources, "-o", str(library)]
            succeeded, said = run(command)
            report += said
            if succeeded:
                break
        else:
            self.warn(f"no native library, the reference backend will run:\n{report}")
        library.with_name("_native_build.txt").write_text(report)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in Path(self.build_lib, "fastsaddle").glob("_native*")]

    def get_output_mapping(self) -> dict[str, str]:
        places = {built: f"fastsaddle/{Path(built).name}" for built in self.get_outputs()}
        return places if self.inplace else {}

    def copy_extensions_to_source(self) -> None:
        Path("fastsaddle/_native.so").unlink(missing_ok=True)
        for built, place in self.get_output_mapping().items():
            self.copy_file(built, place)


class LibraryWheel(bdist_wheel):
    """Tags the wheel py3-none-<platform>, or py3-none-any where nothing was compiled."""

    def run(self) -> None:
        # the folder is the list of ops: one deleted since must not come back from an old build
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        library = Path(self.get_finalized_command("build_ext").build_lib, "fastsaddle/_native.so")
        self.root_is_pure = not library.exists()
        return "py3", "none", super().get_tag()[2]


def under(folder: str, name: str) -> list[str]:
    """The package `name`, which lies in `folder`, and all packages in it."""
    found = find_namespace_packages(folder, exclude=["*__pycache__"])
    return [name, *(f"{name}.{package}" for package in found)]


packages = under("fastsaddle", "fastsaddle")
# "" keeps `pip install -e .` a plain path, which type checkers can follow
package_dir = {"": "."}
if OPS != LINK:
    packages += under("kernels", "fastsaddle.kernels")
    package_dir["fastsaddle.kernels"] = "kernels"

setup(
    packages=packages,
    package_dir=package_dir,
    ext_modules=[Extension("fastsaddle._native", sorted(map(str, OPS.rglob("*.cpp"))))],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": LibraryWheel},
)
