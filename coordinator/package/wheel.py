"""A compiled model as a wheel that a stranger installs with pip."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import io
import json
import keyword
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.engines import ENGINES, engine
from protos.errors import BadTarget, JobFailed
from protos.records import sha256_hex

from ..frontend.target import architecture, num_threads
from .manifest import Manifest, manifest_json

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Equal content must give equal bytes."""

_REQUIRED = ("apache-tvm-ffi", "apache-tvm-ffi-orcjit")
_TAKEN = frozenset(
    ("numpy", "tvm", "tvm_ffi", "tvm_ffi_orcjit", "onnx", *(one.module for one in ENGINES))
)
_LIBRARY = "libtvm_runtime.so"


@dataclass(frozen=True)
class RuntimeLibrary:
    """TVM's runtime for one platform, and the papers that go with it (file name to content)."""

    data: bytes
    platform_tag: str
    licenses: Mapping[str, bytes]


def installed_runtime() -> RuntimeLibrary:
    """That of the TVM wheel in this environment."""
    distribution = importlib.metadata.distribution("apache-tvm")
    tags = re.findall(r"^Tag: \S+-\S+-(\S+)$", distribution.read_text("WHEEL") or "", re.MULTILINE)
    root = Path(str(distribution.locate_file("tvm")))
    return RuntimeLibrary(
        data=(root / "lib" / _LIBRARY).read_bytes(),
        platform_tag=".".join(sorted(tags)),
        licenses={name: (root / name).read_bytes() for name in ("LICENSE", "NOTICE")},
    )


def import_name(model_file: str) -> str:
    """The Python module, in lower case, that a model's file name becomes.

    ``ch_ppocr_mobile_v2.0_cls_infer.onnx`` gives ``ch_ppocr_mobile_v2_0_cls_infer``. A name that
    would hide another module gets ``_model`` after it.
    """
    stem = re.sub(r"\.onnx$", "", Path(model_file).name, flags=re.IGNORECASE)
    name = re.sub(r"_+", "_", re.sub(r"[^a-z0-9]", "_", stem.lower())).strip("_")
    if not name or not name[0].isalpha():
        name = f"model_{name}".rstrip("_")
    taken = name in _TAKEN or name in sys.stdlib_module_names or keyword.iskeyword(name)
    return f"{name}_model" if taken else name


def write_wheel(
    objects: bytes, manifest: Manifest, runtime: RuntimeLibrary | None = None
) -> tuple[str, bytes]:
    """The wheel's file name and bytes: the same for the same arguments and tools.

    ``objects`` is what ``compile_model`` gave. Raises BadTarget if ``runtime`` (by default this
    environment's) is for another architecture than the target.
    """
    runtime = runtime or installed_runtime()
    _check_architecture(manifest.target_json, runtime)
    files = {
        "_runtime.py": _source("runtime.py"),
        _LIBRARY: runtime.data,
        **{f"objects/{name}": data for name, data in _object_files(objects)},
    }
    papers = {f"licenses/tvm/{name}": content for name, content in runtime.licenses.items()}
    required = {name: importlib.metadata.version(name) for name in _REQUIRED}
    version = f"o{sha256_hex(objects)[:10]}"
    return _write(manifest, version, files, runtime.platform_tag, required, papers)


def write_engine_wheel(model: bytes, manifest: Manifest) -> tuple[str, bytes]:
    """The same for a model that another engine runs: ``manifest.engine``, which the wheel requires.

    ``model`` is the ONNX file with fixed shapes.
    """
    used = manifest.engine
    known = engine(used.name) if used is not None else None
    if used is None or known is None:
        raise JobFailed(f"there is no engine for a package: {used}")
    files = {"_runtime.py": _source("engine_runtime.py"), "model.onnx": model}
    version = f"{used.name}{re.sub(r'[^0-9a-zA-Z.]', '.', used.version)}"
    required = {known.distribution: used.version}
    return _write(manifest, version, files, "any", required, {})


def _write(
    manifest: Manifest,
    local_version: str,
    files: Mapping[str, bytes],
    platform_tag: str,
    required: Mapping[str, str],
    papers: Mapping[str, bytes],
) -> tuple[str, bytes]:
    name = import_name(manifest.model_file)
    version = f"1.0+m{manifest.model_sha256[:10]}.{local_version}"
    info = f"{name}-{version}.dist-info"
    tag = f"py3-none-{platform_tag}"
    filename = f"{name}-{version}-{tag}.whl"
    module = {**_common(name, manifest), **files}
    members = {f"{name}/{path}": data for path, data in module.items()}
    members[f"{info}/METADATA"] = _metadata(name, version, manifest, required).encode()
    members[f"{info}/WHEEL"] = _wheel_file(tag).encode()
    members[f"{info}/top_level.txt"] = f"{name}\n".encode()
    members.update((f"{info}/{path}", content) for path, content in papers.items())
    return filename, _pack(filename, members)


def _check_architecture(target_json: str, runtime: RuntimeLibrary) -> None:
    needed = architecture(target_json)
    if not runtime.platform_tag.endswith(needed):
        raise BadTarget(
            f"a package for {needed} needs TVM's runtime for {needed}; there is one for "
            f"{runtime.platform_tag} only. Packages for other architectures can't be written yet"
        )


def _source(name: str) -> bytes:
    return importlib.resources.files(__package__).joinpath(name).read_bytes()


def _common(name: str, manifest: Manifest) -> dict[str, bytes]:
    """What every package has, by its path below the module."""
    described = manifest_json(
        manifest,
        name=name,
        architecture=architecture(manifest.target_json),
        num_threads=num_threads(manifest.target_json),
        created_by=f"tunefarm {importlib.metadata.version('tunefarm')}",
    )
    doc = f'"""{name}, packaged by tunefarm: ``Model().run(inputs)``; see manifest.json."""\n\n'
    init = f'{doc}from ._runtime import Model\n\n__all__ = ["Model"]\n'
    return {
        "__init__.py": init.encode(),
        "_model.py": _source("_model.py"),
        "manifest.json": json.dumps(described, indent=2, ensure_ascii=False).encode(),
    }


def _object_files(objects: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(objects)) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        if not members:
            raise JobFailed("the compiled model has no object files")
        for member in sorted(members, key=lambda item: item.name):
            content = archive.extractfile(member)
            assert content is not None
            yield Path(member.name).name, content.read()


def _metadata(name: str, version: str, manifest: Manifest, required: Mapping[str, str]) -> str:
    runs = "compiled by tunefarm for one kind of CPU"
    licences = "The model's own license applies to the model; TVM's is under licenses/tvm."
    if manifest.engine is not None:
        runs = f"for {manifest.engine.name}, its fastest engine on one kind of CPU"
        licences = f"The model has its own license; the engine's is {manifest.engine.licence}."
    return "\n".join(
        [
            "Metadata-Version: 2.1",
            f"Name: {name.replace('_', '-')}",
            f"Version: {version}",
            f"Summary: {manifest.model_file} {runs}",
            "Requires-Python: >=3.10",
            "Requires-Dist: numpy>=1.23",
            *(f"Requires-Dist: {package}=={pinned}" for package, pinned in required.items()),
            "",
            f"`from {name} import Model; Model().run(inputs)`: see `Model().inputs`.",
            licences,
            "",
        ]
    )


def _wheel_file(tag: str) -> str:
    python, abi, platforms = tag.split("-")
    tags = [f"Tag: {python}-{abi}-{platform}" for platform in platforms.split(".")]
    version = importlib.metadata.version("tunefarm")
    pure = str(platforms == "any").lower()
    lines = ["Wheel-Version: 1.0", f"Generator: tunefarm {version}", f"Root-Is-Purelib: {pure}"]
    return "\n".join([*lines, *tags, ""])


def _pack(filename: str, files: Mapping[str, bytes]) -> bytes:
    from wheel.wheelfile import WheelFile

    class TimelessWheelFile(WheelFile):  # type: ignore[misc]
        """Writes the date of no day, into the RECORD that it adds itself, too."""

        def writestr(self, entry: Any, data: Any, compress_type: int | None = None) -> None:
            if isinstance(entry, str):
                entry = zipfile.ZipInfo(entry)
                entry.compress_type = self.compression
                entry.external_attr = 0o100644 << 16
            entry.date_time = _ZIP_TIME
            super().writestr(entry, data, compress_type)

    # WheelFile reads the wheel's name off the file it writes, and keeps RECORD's hashes.
    with tempfile.TemporaryDirectory(prefix="tunefarm-wheel-") as directory:
        path = Path(directory) / filename
        with TimelessWheelFile(path, "w") as archive:
            for name in sorted(files, key=lambda name: (".dist-info/" in name, name)):
                archive.writestr(name, files[name])
        return path.read_bytes()
