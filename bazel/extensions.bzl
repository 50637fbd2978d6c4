"""What MODULE.bazel takes from here. Bazel 4 cannot load this file."""

load("//bazel:local_go.bzl", "local_go")

def _go_impl(_ctx):
    local_go(name = "local_go")

go = module_extension(implementation = _go_impl)
