"""Stand-ins for the libraries of CUDA that torch from PyPI loads and, on a CPU, never calls.

Each has the functions that torch's own libraries name, all of which return an error. CUDA's runtime
is the real one, and says that there is no GPU.
"""

import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

# Library, without its version, and the beginning of its functions' names.
ABSENT = {
    "libcublas.so": "cublas",
    "libcublasLt.so": "cublasLt",
    "libcudnn.so": "cudnn",
    "libcufft.so": "cufft",
    "libcusparse.so": "cusparse",
    "libcusparseLt.so": "cusparseLt",
    "libnccl.so": "nccl",
    "libnvrtc.so": "nvrtc",
    "libnvshmem_host.so": "nvshmem",
}


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


site = Path(sysconfig.get_path("purelib"))
libraries = [str(path) for path in (site / "torch/lib").glob("*.so")]
needed = {name for file in libraries for name in re.findall(r"NEEDED.*\[(.*?)\]", run("readelf", "-d", file))}
wanted = {name for file in libraries for name in re.findall(r" U (\S+)", run("nm", "-D", "--undefined-only", file))}
# Where torch looks for them.
[folder] = (site / "nvidia").glob("cu*/lib")
for library in sorted(needed):
    prefix = ABSENT.get(library.rsplit(".", 1)[0])
    if prefix is None:
        continue
    # A name may carry a version, mostly that of its library.
    names = [name.split("@") for name in wanted if name.startswith(prefix)]
    names = [name for name in names if len(name) == 1 or name[1] in (library, "NVSHMEM")]
    versions = {name[1] for name in names if len(name) == 2}
    with tempfile.TemporaryDirectory() as scratch:
        source, versioned = Path(scratch, "stub.c"), Path(scratch, "versions")
        source.write_text("".join(f"int {name[0]}(void) {{ return 1; }}\n" for name in names))
        versioned.write_text("".join(f"{version} {{ global: *; }};\n" for version in versions))
        script = [f"-Wl,--version-script,{versioned}"] if versions else []
        run("cc", "-shared", "-fPIC", "-w", source, f"-Wl,-soname,{library}", *script, "-o", folder / library)
