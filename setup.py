"""Builds the package and, if there is a C++ compiler, the kernels of csrc/.

The kernels include no header of torch or Python, so this needs neither: ninja compiles csrc/ into one shared library,
stylegan_toon/_kernels.so, that ops/library.py loads with ctypes. The wheel serves every Python 3. Without a working
compiler the package is pure Python, and one line of the output says so.

The CUDA kernels are compiled for the GPUs of this machine. If it has none, they are compiled for those from Turing to
Hopper and as PTX, which the driver of a newer GPU compiles once; with STYLEGAN_TOON_CUDA=1, as for release wheels, for
all major architectures, which takes longer.

    CXX                  the C++ compiler (default: the first of g++, clang++ and c++ that works)
    STYLEGAN_TOON_CUDA   unset: compile the CUDA kernels if nvcc works; 1: fail if it does not; 0: skip them
    MAX_JOBS             how many compilers run at a time (default: ninja's, the number of cores + 2)
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import setuptools
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # only pip --no-build-isolation meets an old one
    sys.exit(f"stylegan_toon is built with setuptools 77 or newer, this is {setuptools.__version__}: upgrade it.")

ROOT = Path(__file__).parent.resolve()
SOURCES = ROOT / "csrc"
LINUX = sys.platform.startswith("linux")
X86 = platform.machine() in ("x86_64", "AMD64")

COMMON = ["-O3", "-std=c++17", "-DNDEBUG"]
CXX_FLAGS = [
    *COMMON, "-fPIC", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-fno-trapping-math",
    "-Wall", "-Wextra",
]  # fmt: skip
CPU_KERNELS = (
    "bias_act", "upfirdn2d", "epilogue", "conv3x3", "conv3x3_weight", "haar", "separable", "separable_grad", "corners",
)  # fmt: skip
# Each CPU kernel is compiled once per instruction set; csrc/cpu.cpp chooses one when the library is loaded. It expects
# exactly this list if TOON_X86 is defined.
INSTRUCTION_SETS = {"baseline": []} | (
    {"avx2": ["-mavx2", "-mfma", "-mf16c"],
     "avx512": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]} if X86 else {}
)  # fmt: skip
USUAL_GPUS = ["75", "80", "90"]  # Turing, Ampere and Ada, Hopper


def say(text: str) -> None:
    print(f"stylegan_toon: {text}", flush=True)


def run(command: list[str]) -> str:
    """The output of a command. Raises OSError if it does not exist or fails."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise OSError(f"{command[0]} failed: {(done.stderr.strip() or done.stdout.strip())[-500:]}")
    return done.stdout


def compiles(command: list[str], name: str, text: str) -> None:
    """Compile a few lines with a compiler and its flags. Raises OSError if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, name)
        source.write_text(text)
        run([*command, "-c", str(source), "-o", f"{source}.o"])


@dataclass
class Toolchain:
    """The compilers. ``cxx`` is empty if none works, ``nvcc`` if there will be no CUDA kernels."""

    cxx: list[str] = field(default_factory=list)
    openmp: list[str] = field(default_factory=list)
    nvcc: list[str] = field(default_factory=list)  # with the flags that name the architectures
    description: str = ""


def find_toolchain() -> Toolchain:
    tools = Toolchain()
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    reasons = []
    for name in names:
        command = shlex.split(name)
        try:
            compiles([*command, *CXX_FLAGS], "probe.cpp", "#include <cmath>\nfloat f(float x) { return std::exp(x); }")
            version = re.search(r"\d+\.\d+[.\d]*", run([*command, "--version"]))
            tools.cxx = [shutil.which(command[0]) or command[0], *command[1:]]
            tools.description = f"{Path(command[0]).name} {version[0] if version else ''}".strip()
            break
        except OSError as error:
            reasons.append(str(error).splitlines()[0])
    cuda = os.environ.get("STYLEGAN_TOON_CUDA", "")
    if cuda not in ("", "0", "1"):
        sys.exit(f"STYLEGAN_TOON_CUDA is {cuda!r}: unset it, or set it to 1 (need CUDA) or 0 (no CUDA).")
    if not tools.cxx:
        if cuda == "1":
            sys.exit(f"STYLEGAN_TOON_CUDA=1, but no C++ compiler works: {'; '.join(reasons)}")
        say(f"no C++ compiler works ({'; '.join(reasons)}): building without kernels; the ops will run in PyTorch")
        return tools
    try:
        # Compiled with OpenMP, but not linked against it: see csrc/parallel.h.
        compiles([*tools.cxx, "-fopenmp"], "probe.cpp", "void f() {\n#pragma omp parallel\n{}\n}")
        tools.openmp = ["-fopenmp"] if LINUX else []
    except OSError:
        say("the compiler has no OpenMP: the CPU kernels will run in one thread")
    tools.description += ", OpenMP" if tools.openmp else ", one thread"
    if cuda != "0":
        tools.nvcc = find_nvcc(tools, required=cuda == "1")
    return tools


def find_nvcc(tools: Toolchain, required: bool) -> list[str]:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    try:
        if nvcc is None:
            raise OSError("nvcc was not found")
        command = [nvcc, "-ccbin", tools.cxx[0], *architecture_flags(nvcc, every=required)]
        compiles(command, "probe.cu", "__global__ void f(float *x) { *x = 1; }")
        version = re.search(r"release (\d+\.\d+)", run([nvcc, "--version"]))
        tools.description += f"; CUDA {version[1] if version else ''}".rstrip()
        return command
    except OSError as error:
        if required:
            sys.exit(f"STYLEGAN_TOON_CUDA=1, but the CUDA kernels cannot be built: {error}")
        say(f"no CUDA kernels ({error})")
        return []


def architecture_flags(nvcc: str, every: bool) -> list[str]:
    """What to compile CUDA code for: machine code for the GPUs here, and PTX of the newest for newer ones.

    Without any GPU: for ``every`` major architecture, or for the usual ones. An architecture that this nvcc does not
    have makes it all major ones.
    """
    threads = "--threads=0"  # as many architectures at a time as there are cores
    supported: list[str] = []
    try:
        supported = run([nvcc, "--list-gpu-arch"]).split()
        output = run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
        numbers = sorted({line.strip().replace(".", "") for line in output.splitlines() if line.strip()}, key=int)
    except (OSError, ValueError):
        numbers = []
    numbers = numbers or ([] if every else USUAL_GPUS)
    if not numbers or any(f"compute_{number}" not in supported for number in numbers):
        return ["-arch=all-major", threads]
    machine_code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    return [threads, *machine_code, f"-gencode=arch=compute_{numbers[-1]},code=compute_{numbers[-1]}"]


@dataclass
class Step:
    """One command of the build: ``out`` from ``sources``. Compilations also write a list of the headers they read."""

    out: str
    sources: list[str]
    command: list[str]
    notes_headers: bool = True


def plan(tools: Toolchain, build: Path, library: Path) -> list[Step]:
    steps = []
    x86 = ["-DTOON_X86"] if X86 else []
    label = f'-DTOON_BUILD="{tools.description}"'

    def compilation(source: str, name: str, command: list[str]) -> None:
        out = str(build / f"{name}.o")
        source = str(SOURCES / source)
        steps.append(Step(out, [source], [*command, "-MMD", "-MF", f"{out}.d", "-c", source, "-o", out]))

    compilation("cpu.cpp", "cpu", [*tools.cxx, *CXX_FLAGS, *x86, label])
    for kernel in CPU_KERNELS:
        for name, flags in INSTRUCTION_SETS.items():
            isa = [f"-DTOON_ISA={name}", *flags]
            compilation(f"{kernel}.cpp", f"{kernel}.{name}", [*tools.cxx, *CXX_FLAGS, *tools.openmp, *isa])
    link = [*tools.cxx, "-shared"]
    if tools.nvcc:
        cuda = [*tools.nvcc, *COMMON, "-Xcompiler=-fPIC,-fvisibility=hidden"]
        for source in ("cuda", "bias_act", "upfirdn2d", "epilogue", "epilogue_grad", "haar"):
            compilation(f"{source}.cu", f"{source}.cuda", [*cuda, "-DTOON_ISA=cuda"])
        link = [*tools.nvcc, "-shared", "-cudart=static"]
    objects = [step.out for step in steps]
    if LINUX:
        # --exclude-libs hides the symbols of our CUDA runtime: torch has another copy loaded.
        options = ["--as-needed", "--exclude-libs,ALL"]
        link += [f"-Xlinker={option}" if tools.nvcc else f"-Wl,{option}" for option in options]
    elif sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    steps.append(Step(str(library), objects, [*link, *objects, "-o", str(library)], notes_headers=False))
    return steps


def ninja_file(steps: list[Step]) -> str:
    def path(text: str) -> str:
        return re.sub(r"([$ :])", r"$\1", text)

    lines = ["rule compile", "  command = $cmd", "  description = $out", "  depfile = $out.d", "  deps = gcc"]
    lines += ["rule link", "  command = $cmd", "  description = $out"]
    for step in steps:
        rule = "compile" if step.notes_headers else "link"
        lines += [f"build {path(step.out)}: {rule} {' '.join(map(path, step.sources))}"]
        lines += ["  cmd = " + shlex.join(step.command).replace("$", "$$")]
    return "\n".join(lines) + "\n"


def ninja() -> str | None:
    try:
        from ninja import BIN_DIR
    except ImportError:
        return shutil.which("ninja")
    return shutil.which("ninja", path=BIN_DIR) or shutil.which(
        "ninja"
    )  # pip puts the tools of an isolated build on PATH


def build_library(tools: Toolchain, build: Path, library: Path) -> None:
    """Compile what is out of date. Raises subprocess.CalledProcessError if a compiler fails."""
    build.mkdir(parents=True, exist_ok=True)
    library.parent.mkdir(parents=True, exist_ok=True)
    steps = plan(tools, build, library)
    program = ninja()
    if program:
        (build / "build.ninja").write_text(ninja_file(steps))
        jobs = os.environ.get("MAX_JOBS")
        subprocess.run([program, "-C", str(build), *(["-j", jobs] if jobs else [])], check=True)
    else:
        say("ninja was not found: compiling one file after the other")
        for step in steps:
            subprocess.run(step.command, check=True)


class BuildKernels(build_ext):
    """build_ext for one extension, the kernel library: built by ninja, and without a Python version in its name."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext: Extension) -> None:
        build = ROOT / "build" / "kernels"
        library = build / "_kernels.so"
        try:
            build_library(TOOLS, build, library)
        except subprocess.CalledProcessError:
            if not TOOLS.nvcc or os.environ.get("STYLEGAN_TOON_CUDA") == "1":
                raise
            say("the CUDA kernels did not compile (see above): building without them")
            TOOLS.nvcc = []
            TOOLS.description = TOOLS.description.split(";")[0]
            build_library(TOOLS, build, library)
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Replace the file instead of writing into it: a running process may have it mapped.
        target.unlink(missing_ok=True)
        shutil.copy2(library, target)
        say(f"compiled kernels: {TOOLS.description}")


class PythonlessWheel(bdist_wheel):
    """The tag of a wheel whose library depends on the platform, but not on a Python version or ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        tag = super().get_tag()
        return tag if self.root_is_pure else ("py3", "none", tag[2])


# Build front ends also run this file for metadata and requirements: look for compilers only if it builds.
BUILDING = {"bdist_wheel", "editable_wheel", "build", "build_ext", "install"}
TOOLS = find_toolchain() if BUILDING & set(sys.argv) else Toolchain()
packages = find_packages(include=["stylegan_toon", "stylegan_toon.*"])
package_dir, package_data = {}, {"stylegan_toon": ["py.typed"]}
# pretrained/ is installed inside the package; setuptools takes each of its folders for a package.
for folder in sorted({file.parent for file in ROOT.glob("pretrained/**/*") if file.is_file()}):
    if folder.name != "__pycache__":
        relative = folder.relative_to(ROOT)
        name = ".".join(["stylegan_toon", *relative.parts])
        packages.append(name)
        package_dir[name] = str(relative)
        package_data[name] = ["*"]

setup(
    packages=packages,
    package_dir=package_dir,
    package_data=package_data,
    ext_modules=[Extension("stylegan_toon._kernels", sources=[])] if TOOLS.cxx else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PythonlessWheel},
)
