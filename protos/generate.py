"""Regenerate the gRPC stubs from ``farm.proto``: ``python -m protos.generate [--check]``.

Always run by the pinned grpcio-tools from the repository's root, so that everybody's output is the
same; ``--check`` writes nothing and fails if the committed stubs differ (CI runs it).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = ("farm_pb2.py", "farm_pb2.pyi", "farm_pb2_grpc.py")


def generate(out_dir: Path) -> None:
    """Write the stubs under ``out_dir/protos``; raises RuntimeError if protoc refuses the file."""
    from grpc_tools import protoc

    arguments = ["protoc", f"-I{ROOT}"]
    arguments += [f"--{kind}={out_dir}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    if protoc.main([*arguments, "protos/farm.proto"]) != 0:
        raise RuntimeError("protoc refused protos/farm.proto; see its message above")


def main() -> int:
    """Write or check the stubs; returns the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare with what is committed")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = [
            name
            for name in GENERATED
            if (Path(scratch) / "protos" / name).read_text() != (ROOT / "protos" / name).read_text()
        ]
    if stale:
        print(f"stale stubs: {', '.join(stale)}; run `python -m protos.generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
