"""The command `tunefarm`, one file a group. Heavy imports only where a command needs them."""

import os

# Read by gRPC when it is imported. We fork only to exec, where its fork handlers are no help.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
